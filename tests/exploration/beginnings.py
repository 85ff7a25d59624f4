"""Ways into scopes that are too large from their very beginning, as lines of a trace.

What else could have happened up to their end is not explored from there.
"""

# One height. Member 2 locks A in view 0 with the help of member 3; members 0 and 1 do not know, and new view 1 is free.
LOCK_IN_VIEW_0 = """
    0: Fire()
    1: Fire()
    2: Fire()
    2: propose 0 1 A1 0
    2: vote 0 1 1 A1 3
    2: timeout 0
    0: timeout 0
    1: timeout 0
    1: view change 1 - 0 + view change 1 - 3
    0: new view 1 - 1
"""

# Two heights, member 2 Byzantine. Member 0 locks A at height 2 and nobody anything at height 1: a gap below a lock.
GAP = """
    1: propose 0 2 A2 0
    0: vote 0 2 1 A2 1 + vote 0 2 1 A2 2
    0: Fire()
    1: Fire()
    3: Fire()
    0: timeout 0
    1: timeout 0
    3: timeout 0
"""

# Members 1 and 2 vote for A in view 0.
VOTED = """
    1: propose 0 1 A1 0
    2: propose 0 1 A1 0
"""

# Members 0 and 1 lock A in view 0 with the help of member 2, and will leave it.
LOCKED = """
    0: Fire()
    1: Fire()
    1: propose 0 1 A1 0
    0: vote 0 1 1 A1 1 + vote 0 1 1 A1 2
    1: vote 0 1 1 A1 2
"""

# Member 1 Byzantine. Members 0 and 2 lock A in view 0 with its help, and will leave it.
LOCKED_AND_LEAVING = """
    0: Fire()
    2: Fire()
    2: propose 0 1 A1 0
    0: vote 0 1 1 A1 1 + vote 0 1 1 A1 2
    2: vote 0 1 1 A1 1
"""
FORGOTTEN = """
    0: Restart(kept=0, blocks=False)
    0: timeout 0
"""

# Member 1 Byzantine. Members 0 and 2 leave view 0 before they have seen anything of it.
NOTHING_KNOWN = """
    0: Fire()
    2: Fire()
    0: timeout 0
    2: timeout 0
"""

# Members 0 and 2 lock A in view 0 with the help of member 1, and leave it.
LEFT_WITH_A_LOCK = """
    0: Fire()
    2: Fire()
    2: propose 0 1 A1 0
    0: vote 0 1 1 A1 1 + vote 0 1 1 A1 2
    0: timeout 0
    2: vote 0 1 1 A1 1
    2: timeout 0
"""

# Member 1 Byzantine. Members 0 and 2 vote for A in view 0 and leave it without having seen another's vote.
LEFT_WITH_A_VOTE = """
    0: Fire()
    2: Fire()
    2: propose 0 1 A1 0
    0: timeout 0
    2: timeout 0
"""

# Member 3 Byzantine. Members 0 and 1 vote for A in view 0; in view 1 both lock B with its help, and leave that, too.
LOCK_IN_VIEW_1 = """
    0: Fire()
    1: Fire()
    2: Fire()
    1: propose 0 1 A1 0
    0: timeout 0
    1: timeout 0
    2: timeout 0
    1: view change 1 - 0 + view change 1 - 2
    0: new view 1 - 1
    0: propose 1 1 B1 1
    0: vote 1 1 1 B1 3
    1: vote 1 1 1 B1 0 + vote 1 1 1 B1 3
    0: Fire()
    1: Fire()
    0: timeout 1
    1: timeout 1
    2: timeout 1
    0: Fire()
    1: Fire()
    2: Fire()
    0: timeout 2
    1: timeout 2
    2: timeout 2
"""
