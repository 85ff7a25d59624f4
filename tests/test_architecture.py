"""The walls of the house, read from the source: who imports whom, what the pure packages must not touch, what ships."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("consensus", "ledger", "node", "p2p", "storage")
PURE = ("consensus", "ledger")
ARROWS = {
    "ledger": frozenset[str](),
    "consensus": frozenset({"ledger"}),
    "p2p": frozenset({"ledger"}),
    "storage": frozenset({"ledger"}),
    "node": frozenset(PACKAGES) - {"node"},
}
BANNED_IN_PURE = frozenset(
    {
        "aiohttp", "asyncio", "datetime", "io", "multiprocessing", "os", "pathlib", "random", "secrets", "socket",
        "subprocess", "threading", "time",
    }
)  # fmt: skip
ONLY_IN = {  # who may know these libraries
    "plyvel": ("storage/leveldb.py",),
    "aiohttp": ("p2p/transport.py", "node/api/"),
    "nacl": ("ledger/crypto.py", "node/vault.py"),
    "cryptography": ("p2p/tls.py",),
    "pydantic": ("node/",),
    "pydantic_settings": ("node/",),
    "click": ("node/cli/", "node/demo/"),
    "rich": ("node/",),
    "structlog": ("node/",),
    "prometheus_client": ("node/",),
    "biip": ("node/gateway/",),
    "fhir": ("node/gateway/",),
    "pyarrow": ("node/export.py",),
}
NODE_LINES_MAX = 300
SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference"})
ORDER_FREE = frozenset({"sorted", "len", "any", "all", "set", "frozenset", "sum", "min", "max"})


def modules(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level names of everything imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or "")).partition(".")[0] or ".", node.lineno


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows_of_the_design(package: str) -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in modules(package)
        for name, line in imports(parse(path))
        if name == "." or (name in PACKAGES and name != package and name not in ARROWS[package])
    ]
    assert not wrong


def test_the_pure_packages_have_no_clock_network_files_or_randomness() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in modules(*PURE)
        for name, line in imports(parse(path))
        if name in BANNED_IN_PURE
    ]
    assert not wrong


def test_each_library_is_known_only_where_the_design_says() -> None:
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for path in modules(*PACKAGES)
        for name, line in imports(parse(path))
        if name in ONLY_IN and not name_of(path).startswith(ONLY_IN[name])
    ]
    assert not wrong


def floats(tree: ast.AST) -> Iterator[str]:
    """Float constants, the name float outside of type checks, and true division."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)):
            yield f"{node.lineno}: {node.value!r}"
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div):
            yield f"{node.lineno}: true division"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("float", "hash"):
            yield f"{node.lineno}: {node.func.id}()"


def test_the_pure_packages_compute_without_floats_and_without_the_hash_seed() -> None:
    """Trap 45."""
    wrong = [f"{name_of(path)}:{found}" for path in modules(*PURE) for found in floats(parse(path))]
    assert not wrong


class SetIteration(ast.NodeVisitor):
    """Finds iteration over what is visibly a set: literals, set(...), set algebra, and names bound or annotated so."""

    def __init__(self) -> None:
        self.found: list[int] = []
        self._scopes: list[dict[str, bool]] = [{}]
        self._attributes: dict[str, bool] = {}

    def is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in SET_METHODS:
                return self.is_set(value)
            case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
                return self.is_set(left) or self.is_set(right)
            case ast.Name(id=name):
                return next((scope[name] for scope in reversed(self._scopes) if name in scope), False)
            case ast.Attribute(attr=attr):
                return self._attributes.get(attr, False)
        return False

    @staticmethod
    def _names_set(annotation: ast.expr) -> bool:
        text = ast.unparse(annotation).strip("'\"")
        return text.startswith(("set[", "frozenset[", "AbstractSet[", "MutableSet[")) or text in ("set", "frozenset")

    def collect(self, tree: ast.Module) -> None:
        """Fields of classes first: they are used before they are seen."""
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and self._names_set(node.annotation):
                target = node.target
                name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
                self._attributes[name] = True
        self.visit(tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        scope = {arg.arg: arg.annotation is not None and self._names_set(arg.annotation) for arg in arguments}
        self._scopes.append(scope)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._scopes[-1][target.id] = self.is_set(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name):
            self._scopes[-1][node.target.id] = self._names_set(node.annotation)

    def visit_For(self, node: ast.For) -> None:
        self._check(node.iter)
        self.generic_visit(node)

    def _comprehension(self, node: ast.ListComp | ast.DictComp) -> None:
        for generator in node.generators:
            self._check(generator.iter)
        self.generic_visit(node)

    visit_ListComp = _comprehension
    visit_DictComp = _comprehension

    def visit_Starred(self, node: ast.Starred) -> None:
        self._check(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in ("list", "tuple", "iter", "enumerate", "zip", "map", "filter", "join", "encode", "extend"):
            for argument in node.args:
                self._check(argument)
                if isinstance(argument, ast.GeneratorExp):
                    self._generator(argument)
        elif name not in ORDER_FREE:
            for argument in node.args:
                if isinstance(argument, ast.GeneratorExp):
                    self._generator(argument)
        if name == "pop" and not node.args and isinstance(node.func, ast.Attribute):
            self._check(node.func.value)
        self.generic_visit(node)

    def _generator(self, node: ast.GeneratorExp) -> None:
        for generator in node.generators:
            self._check(generator.iter)

    def _check(self, node: ast.expr) -> None:
        if self.is_set(node):
            self.found.append(node.lineno)


def set_iterations(tree: ast.Module) -> list[int]:
    visitor = SetIteration()
    visitor.collect(tree)
    return visitor.found


def test_the_pure_packages_never_iterate_over_a_set() -> None:
    """Trap 45. The order of a set of bytes differs from process to process."""
    wrong = [f"{name_of(path)}:{line}" for path in modules(*PURE) for line in set_iterations(parse(path))]
    assert not wrong


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "s = set(a)\nfor x in s: pass",
        "def f(s: frozenset[int]):\n    return [x for x in s]",
        "def f(s: set[int]):\n    return tuple(s | t)",
        "class C:\n    keys: set[bytes]\n    def f(self):\n        for key in self.keys: pass",
        "def f(self):\n    self.seen: set[bytes] = set()\n    return b''.join(x for x in self.seen)",
        "s = set()\ns.pop()",
        "[*set(a)]",
        "tuple(x for x in set(a))",
        "list(set(a).union(b))",
    ],
)
def test_the_reader_of_set_iteration_sees_what_it_must(source: str) -> None:
    assert set_iterations(ast.parse(source))


@pytest.mark.parametrize("source", ["for x in sorted({1}): pass", "len({1})", "any(x for x in s)", "x in {1, 2}"])
def test_the_reader_of_set_iteration_lets_order_free_uses_pass(source: str) -> None:
    assert not set_iterations(ast.parse(source))


@pytest.mark.parametrize("source", ["x = 1.5", "x = a / b", "x /= 2", "x = float(y)", "x = hash(y)"])
def test_the_reader_of_floats_sees_what_it_must(source: str) -> None:
    assert list(floats(ast.parse(source)))


def test_the_node_only_composes() -> None:
    lines = (ROOT / "node" / "node.py").read_text("utf-8").count("\n")
    assert lines <= NODE_LINES_MAX, "something in node/node.py lives in the wrong room"


def test_every_module_says_what_lives_in_it() -> None:
    silent = [
        name_of(path) for path in modules(*PACKAGES) if path.stat().st_size and not ast.get_docstring(parse(path))
    ]
    assert not silent


def test_every_folder_of_code_is_a_package() -> None:
    """One without `__init__.py` would be merged with a stranger's of the same name."""
    folders = {path.parent for path in modules(*PACKAGES)}
    assert not [name_of(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()]


def test_the_wheel_holds_exactly_the_five_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {name_of(path) for path in modules(*PACKAGES)}


def test_the_command_line_starts_without_heavy_imports() -> None:
    script = (
        "import sys; from node.cli import run; status = run(['--help']); "
        "heavy = [m for m in ('aiohttp', 'pydantic', 'rich', 'plyvel', 'fhir', 'asyncio') if m in sys.modules]; "
        "sys.exit(repr(heavy) if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
