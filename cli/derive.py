"""``handgrad derive LAYER``: the derivation in the terminal, with the places in the code that compute each equation."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import click

from .. import derivations
from ..derivations.notation import LECTURE_NOTES, LETTERS
from ..engine.checks import ConfigurationError
from .console import json_option, print_json
from .plain import in_ascii

ROOT = Path(__file__).parents[1]  # the package: derivations/ and engine/ lie below it
WIDTH = 100  # columns at most
INDENT = 2  # of code
GROUPS = {"layers": "Layers", "losses": "Losses", "optimizers": "Optimisers"}  # folders of the engine
INDICES = frozenset("nijkcohq")  # letters that name a position only inside brackets; elsewhere they mean something else
SHORT = {
    "fc": "dense",
    "fullyconnected": "dense",
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "bce": "binary_cross_entropy",
    "rnn": "simple_rnn",
    "lrn": "local_response_norm",
    "deconvolution": "conv_transpose2d",
    "globalaveragepool": "global_avgpool2d",
}
EXAMPLES = ("Worked example", "Worked examples")
LAST = ("Sources", "References")


@click.command(short_help="Print the derivation of a layer, a loss or an optimiser.")
@click.argument("layer", required=False)
@click.option("--ascii", "ascii_only", is_flag=True, help="Plain letters: sum, d and theta for the signs.")
@json_option
def command(layer: str | None, ascii_only: bool, as_json: bool):
    """Print the derivation of LAYER: every numbered equation, its reason, and where the code computes it.

    LAYER is a layer, a loss or an optimiser; conv, Conv2D and "max pool" are understood. Without it, all derivations
    are listed. Under each equation stand the files and lines that end with its number: first the literal code, then
    the kernels of the engine. The literal code and the worked examples follow.
    """
    plain = ascii_only or not _can_write("Σ∂θ√")
    if layer is None:
        listed = listing()
        if as_json:
            print_json({"derivations": in_ascii(listed) if ascii_only else listed})
        else:
            _print(render_listing(in_ascii(listed) if plain else listed, _width()))
        return
    described, sections = describe(find(layer)), sections_of(find(layer))
    if as_json:
        print_json(in_ascii(described) if ascii_only else described)
    elif plain:
        _print(render(in_ascii(described), in_ascii(sections), _width()))
    else:
        _print(render(described, sections, _width()))


def names() -> list[str]:
    """Return the names of all derivation modules."""
    found = (module.name for module in pkgutil.iter_modules(derivations.__path__))
    return [name for name in found if hasattr(_module(name), "EQUATIONS")]


def find(asked: str) -> str:
    """Return the module that a name means: Conv2D, conv, "max pool" and "average pooling" are understood.

    Raises
    ------
    ConfigurationError
        When it means none, or several.
    """
    known, keys = names(), meanings()
    wanted = _squeeze(asked)
    if wanted in keys:
        return keys[wanted]
    starting = sorted({name for key, name in keys.items() if wanted and key.startswith(wanted)})
    if len(starting) == 1:
        return starting[0]
    near = starting or [keys[key] for key in difflib.get_close_matches(wanted, keys, n=1, cutoff=0.5)]
    raise ConfigurationError(
        f"there is no derivation '{asked}'",
        expected=f"one of {', '.join(known)}",
        remedy=f"did you mean {' or '.join(near)}?" if near else "",
    )


def meanings() -> dict[str, str]:
    """Return every name and short name without case and blanks, and the module that it means exactly."""
    known = names()
    keys = {short: name for name in known for short in (_squeeze(name), _squeeze(name).removesuffix("2d"))}
    return keys | {short: name for short, name in SHORT.items() if name in known}


def meant(asked: str) -> str | None:
    """Return the module that a name means exactly, or None."""
    return meanings().get(_squeeze(asked))


def _squeeze(name: str) -> str:
    """Return a name without case, blanks and the longer words for the same."""
    name = re.sub(r"[^a-z0-9]", "", name.lower())
    for long, short in (("pooling", "pool"), ("average", "avg"), ("convolution", "conv")):
        name = name.replace(long, short)
    return name.removesuffix("layer") or name


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{derivations.__name__}.{name}")


def listing() -> list[dict[str, str]]:
    """Return group, name and title of every derivation, grouped as the engine's folders are."""
    entries = []
    for name in names():
        folders = [folder for folder in GROUPS if (ROOT / "engine" / folder / f"{name}.py").exists()]
        group = GROUPS[folders[0]] if folders else "Others"
        entries.append({"group": group, "layer": name, "title": sections_of(name)[0][0]})
    order = [*GROUPS.values(), "Others"]
    return sorted(entries, key=lambda entry: (order.index(entry["group"]), entry["layer"]))


def describe(name: str) -> dict[str, object]:
    """Return a derivation as plain values: title, letters, equations with their lines of code, literal code.

    Parameters
    ----------
    name : str
        Of the module.

    Returns
    -------
    dict
        ``letters`` are (letters, meaning) pairs; ``lines`` holds file, line and code of each place that computes an
        equation, the literal code first; ``literal`` maps the names of the functions to their sources.
    """
    module, places = _module(name), tagged_lines()
    equations = [
        {
            "tag": equation.tag,
            "text": equation.text,
            "latex": equation.latex,
            "reason": equation.reason,
            "computed": equation.computed,
            "lines": places.get(equation.tag, []),
        }
        for equation in module.EQUATIONS
    ]
    literal = {
        key: inspect.getsource(value)
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and key[0] != "_" and key != "sample"
    }
    return {
        "layer": name,
        "title": sections_of(name)[0][0],
        "letters": letters_of([equation.text for equation in module.EQUATIONS], getattr(module, "LETTERS", ())),
        "equations": equations,
        "literal": literal,
    }


def tagged_lines() -> dict[str, list[dict[str, object]]]:
    """Return for every equation the lines that end with its number, those of ``derivations/`` first.

    Returns
    -------
    dict of str to list of dict
        "conv2d.7" to file (relative to the package), line (from 1) and code.
    """
    found: dict[str, list[dict[str, object]]] = {}
    for folder in ("derivations", "engine"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                comment = re.search(r"#((?: ?\(\w+\.\d+\))+)$", line)
                for tag in re.findall(r"\w+\.\d+", comment[1]) if comment else ():
                    place = {"file": path.relative_to(ROOT).as_posix(), "line": number, "code": line.strip()}
                    found.setdefault(tag, []).append(place)
    return found


def letters_of(texts: list[str], own: tuple[tuple[str, str], ...] = ()) -> list[tuple[str, str]]:
    """Return the entries of ``notation.LETTERS`` that equations use, and then those of their module.

    A letter of the module's own entries has no other meaning in it.

    A letter with two meanings is the first of them where it has an index or is differentiated by (W[i,j], ∂L/∂b), and
    the last of them inside brackets (x[c,a,b]). Subscripts without brackets and exponents are part of a name.
    """
    roles: dict[str, set[str]] = {}
    for text in texts:
        text = re.sub(r"[_^](?:\([^)]*\)|[^\W_]+)", "", text)
        for word in re.finditer(r"[A-Za-zΑ-ω]+", text):
            start, end = word.span()
            inside = text.count("[", 0, start) > text.count("]", 0, start)
            array = text[end : end + 1] == "[" or text[:start].endswith("∂")
            roles.setdefault(word[0], set()).add("array" if array else "index" if inside else "plain")
        for sign in re.finditer(r"[=<>]", text):
            if text.count("[", 0, sign.start()) > text.count("]", 0, sign.start()):
                roles["[A]"] = {"plain"}
    own_letters = {letter for head, _ in own for letter in re.split(r"[,;] ", head)}
    meant = set()
    for letter, seen in roles.items():
        entries = [k for k, (head, _) in enumerate(LETTERS) if letter in re.split(r"[,;] ", head)]
        if not entries or letter in own_letters or (letter in INDICES and seen == {"plain"}):
            continue
        meant |= {entries[0]} if "array" in seen or seen == {"plain"} else set()
        meant |= {entries[-1]} if "index" in seen else set()
    return [*(LETTERS[k] for k in sorted(meant)), *own]


def sections_of(name: str) -> list[tuple[str, str]]:
    """Return a module's docstring as (heading, body) pairs, the first of which are its title and its prose."""
    pieces = re.split(r"^(\S.*)\n-{3,}\n", inspect.cleandoc(_module(name).__doc__ or ""), flags=re.MULTILINE)
    title, _, prose = pieces[0].partition("\n\n")
    return [(" ".join(title.split()), prose.strip()), *zip(pieces[1::2], map(str.strip, pieces[2::2]), strict=True)]


def render_listing(entries: list[dict[str, str]], width: int) -> list[str]:
    """Return the lines of the list of all derivations."""
    lines: list[str] = []
    indent = max(len(entry["layer"]) for entry in entries) + 4
    for group in dict.fromkeys(entry["group"] for entry in entries):
        lines += [*([""] if lines else []), _heading(group)]
        for entry in (entry for entry in entries if entry["group"] == group):
            first, *others = textwrap.wrap(entry["title"], width - indent)
            lines.append("  " + click.style(entry["layer"].ljust(indent - 2), fg="cyan") + first)
            lines += [" " * indent + line for line in others]
    return [*lines, "", "Show one with: handgrad derive NAME"]


def render(described: dict, sections: list[tuple[str, str]], width: int) -> list[str]:
    """Return the lines of one derivation: prose, letters, equations, literal code, examples, sources.

    Parameters
    ----------
    described : dict
        As ``describe`` returns it.
    sections : list of (str, str)
        As ``sections_of`` returns them.
    width : int
        Columns at most.
    """
    title = textwrap.wrap(described["title"], width)
    lines = [*(click.style(line, bold=True) for line in title), "=" * max(map(len, title))]
    lines += _section("", sections[0][1], width)
    for heading, body in sections[1:]:
        if heading not in (*EXAMPLES, *LAST):
            lines += _section(heading, body, width)
    if described["letters"]:
        lines += ["", _heading("Letters")]
        column = max(len(head) for head, _ in described["letters"]) + 4
        for head, meaning in described["letters"]:
            wrapped = textwrap.wrap(meaning, width - column, break_on_hyphens=False)
            lines += [("  " + head if k == 0 else "").ljust(column) + line for k, line in enumerate(wrapped)]
    lines += ["", _heading("Equations")]
    for equation in described["equations"]:
        lines += ["", *_equation(equation, width)]
    lines += ["", _heading(f"The literal code, derivations/{described['layer']}.py")]
    for source in described["literal"].values():
        lines += ["", *_code(source, width)]
    for wanted in (EXAMPLES, LAST):
        for heading, body in sections[1:]:
            if heading in wanted:
                lines += _section(heading, body, width)
    prose = " ".join(body for _, body in sections)
    cited = [(short, title) for short, title in LECTURE_NOTES if re.search(rf"\b{short}\b", prose)]
    if cited:
        lines += ["", _heading("Lecture notes")]
        for short, title in cited:
            lines += textwrap.wrap(f"{short}  {title}", width, initial_indent="  ", subsequent_indent="      ")
    return lines


def _section(heading: str, body: str, width: int) -> list[str]:
    """Return prose filled to the width, and examples and other indented lines as they are."""
    lines = ["", _heading(heading)] if heading else []
    for paragraph in re.split(r"\n\s*\n", body) if body else ():
        if re.match(r">>>|\s|[-*] ", paragraph):
            lines += ["", *_code(paragraph, width)]
        else:
            prose = re.sub(r"``(.+?)``", r"\1", " ".join(paragraph.split()))
            lines += ["", *textwrap.wrap(prose, width, break_on_hyphens=False)]
    return lines[:2] + lines[3:] if heading else lines


def _equation(equation: dict, width: int) -> list[str]:
    """Return one equation, its number at the right margin, the reason and the places below."""
    number = f"({equation['tag']})"
    rows = _broken(equation["text"], width - 4, len(number) + 2)
    if len(rows[-1]) + len(number) + 2 > width - 4:
        rows.append("")
    lines = ["    " + click.style(row, fg="cyan", bold=True) for row in rows[:-1]]
    gap = " " * (width - 4 - len(number) - len(rows[-1]))
    lines.append("    " + click.style(rows[-1], fg="cyan", bold=True) + gap + number)
    lines += textwrap.wrap(equation["reason"], width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    by_file: dict[str, list[str]] = {}
    for place in equation["lines"]:
        by_file.setdefault(place["file"], []).append(str(place["line"]))
    places = [f"{file}:{','.join(numbers)}" for file, numbers in by_file.items()]
    text = "computed in " + ", ".join(places) if places else "a step of the derivation; no program computes it"
    wrapped = textwrap.wrap(text, width, initial_indent=" " * 8, subsequent_indent=" " * 20, break_on_hyphens=False)
    return lines + [click.style(line, dim=True) for line in wrapped]


def _broken(text: str, width: int, reserved: int) -> list[str]:
    """Return an equation in one line where it fits beside its number, otherwise broken before every " = "."""
    if len(text) + reserved <= width:
        return [text]
    left, *sides = text.split(" = ")
    indent = len(left) + 1 if len(left) < 30 else 4
    rows = []
    for k, side in enumerate(sides):
        start = f"{left} = {side}" if k == 0 else " " * indent + f"= {side}"
        rows += textwrap.wrap(start, width, subsequent_indent=" " * (indent + 6), break_on_hyphens=False)
    return rows


def _code(source: str, width: int) -> list[str]:
    """Return code as it is, apart from lines that are too long: their comment gets a line of its own."""
    rows = []
    for line in source.rstrip().splitlines():
        hanging = " " * (len(line) - len(line.lstrip()) + INDENT + 8)
        options = {"width": width, "subsequent_indent": hanging, "break_on_hyphens": False}
        row = " " * INDENT + line
        code, mark, comment = row.partition("  # ") if len(row) > width else (row, "", "")
        rows += textwrap.wrap(code, **options) or [""]
        if mark:
            rows += textwrap.wrap(f"{hanging}# {comment}", **(options | {"subsequent_indent": hanging + "# "}))
    return rows


def _heading(text: str) -> str:
    return click.style(text, bold=True, underline=sys.stdout.isatty())


def _width() -> int:
    return max(60, min(WIDTH, shutil.get_terminal_size().columns)) if sys.stdout.isatty() else WIDTH


def _can_write(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _print(lines: list[str]) -> None:
    click.echo("\n".join(lines))
