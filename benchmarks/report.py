"""The table of a run, as text."""

from typing import Any

SIDES = ("ours", "peer", "peer_current")


def milliseconds(seconds: float | None) -> str:
    """Three digits are more than a run repeats."""
    if seconds is None:
        return "–"
    ms = 1000 * seconds
    return f"{ms:.1f}" if ms < 10 else f"{ms:.0f}" if ms < 9999.5 else f"{ms:,.0f}"


def median(case: dict[str, Any], side: str) -> float | None:
    """Median seconds of a side in a case; None where it has none."""
    return case["seconds"].get(side, {}).get("median")


def asked(case: dict[str, Any]) -> str:
    """What the case must reach, in words."""
    products, faster = case["asked"]["products"], case["asked"]["faster"]
    words = [] if products is None else [f"≤ {products:g} products"]
    return ", ".join([*words, f"≥ {faster:g} × faster"])


def verdict(case: dict[str, Any]) -> str:
    """Whether it did."""
    if "ours" in case["errors"]:
        return "not measured"
    if case["reached"] is None:
        return "no comparison"
    return "yes" if case["reached"] else "no"


def ratio(value: float | None) -> str:
    """A ratio with two digits."""
    return "–" if value is None else f"{value:.1f}" if value < 99.5 else f"{value:.0f}"


def table(results: dict[str, Any]) -> str:
    """Medians in milliseconds, ratios, and what was asked, in Markdown."""
    old, new = (results["sides"].get(side, {}).get("jax", "–") for side in SIDES[1:])
    header = [
        "Kernel",
        "ntkbook, ms",
        f"neural-tangents, ms (JAX {old})",
        f"the same, JAX {new}",
        "times faster",
        f"than on JAX {new}",
        "in products",
        "asked",
        "reached",
    ]
    lines = [header, [":--", *["--:"] * 6, ":--", ":-:"]]
    for case in results["cases"]:
        medians = [milliseconds(median(case, side)) for side in SIDES]
        ratios = [ratio(case["ratios"][name]) for name in (*SIDES[1:], "products")]
        lines.append([case["title"], *medians, *ratios, asked(case), verdict(case)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def complaints(results: dict[str, Any]) -> list[str]:
    """What went wrong, one line each: errors, and matrices that disagree."""
    names = {"ours": "ntkbook", "peer": "neural-tangents", "peer_current": "neural-tangents"}
    lines = []
    for case in results["cases"]:
        for side, error in case["errors"].items():
            lines.append(f"{case['name']}, {names[side]} ({side}): {error}")
        for side, found in case["agreement"].items():
            if not found["agrees"]:
                lines.append(
                    f"{case['name']}: ours and {side} differ by {found['off_diagonal']:.1e} "
                    f"(diagonal {found['diagonal']:.1e})"
                )
    return lines
