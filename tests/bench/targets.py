"""What a figure is to be, and whether it is: said beside it, since a busy machine is nobody's mistake."""


def at_most(found: float, target: float, unit: str = "") -> str:
    """The target of a figure that is to be small, for the line that prints it."""
    return _said(f"at most {target:,g}{unit}", is_met=found <= target)


def at_least(found: float, target: float, unit: str = "") -> str:
    """The target of a figure that is to be large, for the line that prints it."""
    return _said(f"at least {target:,g}{unit}", is_met=found >= target)


def _said(target: str, *, is_met: bool) -> str:
    return f"target: {target}, {'met' if is_met else 'missed'}"
