"""Ed25519 written from RFC 8032, section 5.1, in plain integers: slow, independent of libsodium, and able to make the
signatures and keys that an honest library cannot."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha512
from typing import TypeAlias

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)

Point: TypeAlias = tuple[int, int]  # affine x, y


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - product, -1, P)
    return x % P, y % P


def multiply(scalar: int, point: Point) -> Point:
    """Double and add in extended coordinates (RFC 8032, section 5.1.4), which need no inversion on the way."""
    result, addend = (0, 1, 1, 0), (point[0], point[1], 1, point[0] * point[1] % P)
    while scalar:
        if scalar & 1:
            result = _add_extended(result, addend)
        addend = _add_extended(addend, addend)
        scalar >>= 1
    inverse = pow(result[2], -1, P)
    return result[0] * inverse % P, result[1] * inverse % P


def _add_extended(p: tuple[int, int, int, int], q: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def recover_x(y: int, sign: int) -> int:
    """ValueError when no point has this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * SQRT_MINUS_1 % P
    if x * x % P != square:
        raise ValueError("not on the curve")
    return x if x & 1 == sign or x == 0 else P - x


BASE: Point = (recover_x(4 * pow(5, -1, P) % P, 0), 4 * pow(5, -1, P) % P)


def encode_point(point: Point) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def expand(seed: bytes) -> tuple[int, bytes]:
    """(secret scalar, nonce prefix) of a seed."""
    digest = sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | (1 << 254)
    return scalar, digest[32:]


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    return int.from_bytes(sha512(r + key + message).digest(), "little") % L


@lru_cache(maxsize=64)
def public_key(seed: bytes) -> bytes:
    return encode_point(multiply(expand(seed)[0], BASE))


def sign(seed: bytes, message: bytes, key: bytes | None = None) -> bytes:
    """64 bytes. `key` replaces the public key that enters the challenge, for keys with a small part added."""
    scalar, prefix = expand(seed)
    nonce = int.from_bytes(sha512(prefix + message).digest(), "little") % L
    r = encode_point(multiply(nonce, BASE))
    s = (nonce + challenge(r, key or public_key(seed), message) * scalar) % L
    return r + s.to_bytes(32, "little")


def sign_with_mixed_r(seed: bytes, message: bytes) -> bytes:
    """A signature whose R has a part of order eight: valid where the equation is multiplied by the cofactor only."""
    scalar, prefix = expand(seed)
    nonce = int.from_bytes(sha512(prefix + message).digest(), "little") % L
    r = encode_point(add(multiply(nonce, BASE), order_eight()))
    return r + ((nonce + challenge(r, public_key(seed), message) * scalar) % L).to_bytes(32, "little")


def sign_with_r(seed: bytes, message: bytes, r: bytes) -> bytes:
    """A signature whose R is a given point of small order: S is the key's share alone."""
    s = challenge(r, public_key(seed), message) * expand(seed)[0] % L
    return r + s.to_bytes(32, "little")


def order_eight() -> Point:
    """A generator of the eight points of small order."""
    y = 2
    while True:
        try:
            point = multiply(L, (recover_x(y, 0), y))
        except ValueError:
            point = (0, 1)
        if multiply(4, point) != (0, 1):
            return point
        y += 1


def small_order_encodings() -> list[bytes]:
    """Every 32 bytes that some decoder reads as a point of small order: non-canonical y and signs of x = 0 included."""
    generator = order_eight()
    ys = {multiply(factor, generator)[1] for factor in range(8)}
    ys |= {y + P for y in ys if y + P < 2**255}
    return [(y | sign << 255).to_bytes(32, "little") for y in sorted(ys) for sign in (0, 1)]
