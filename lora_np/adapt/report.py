"""How the reports of this package print: a row for each adapted map, one for all, and shares in per cent."""


def percent(share):
    """Return a share in words: two digits however small it is, and more where it is nearly all."""
    number = 100 * share
    digits = ".3f" if 95 < number < 100 else ".1f" if 10 <= number < 100 else ".0f" if number >= 100 else ".2g"
    return f"{number:{digits}} %"


def aligned(rows):
    """Return rows of texts as a table: the first column to the left, the others to the right."""
    first = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{first}}" + "".join(f"{cell:>13}" for cell in cells) for name, *cells in rows)
