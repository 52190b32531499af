"""The pages name every public name, and every page can be found."""

import builtins
import inspect
import pathlib
import re
import symtable

import zsharp_jax

DOCS = pathlib.Path(__file__).parents[1] / "docs"
RESULTS = DOCS.parent / "results"


def listed(page, directive):
    """What stands in the blocks of a directive, an entry a line."""
    blocks = re.findall(rf"{directive}.*?\n```", (DOCS / page).read_text("utf8"), re.DOTALL)
    return re.findall(r"^ *([\w./]+)$", "\n".join(blocks), re.MULTILINE)


def test_every_public_name_has_a_page():
    names = public(zsharp_jax) | {f"sharpness.{name}" for name in public(zsharp_jax.sharpness)}
    assert sorted(listed("api.md", "autosummary::")) == sorted(names)


def public(module):
    names = {name for name in dir(module) if not name.startswith("_")}
    return {name for name in names if not inspect.ismodule(getattr(module, name))}


def test_every_page_is_in_the_contents():
    pages = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert pages <= set(listed("index.md", "{toctree}"))


def test_a_loop_needs_only_the_two_blocks_that_the_page_names():
    # The snippets of a page are tests in one namespace, so those tests cannot see it.
    text = (DOCS / "getting_started.md").read_text("utf8")
    data, no_loop_yet, *loops = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(loops) >= 5
    for loop in loops:
        assert not undefined_names(data + no_loop_yet + loop), loop


def undefined_names(program):
    """The names that a program uses and nowhere defines."""
    module = symtable.symtable(program, "program", "exec")
    found = [each for each in module.get_symbols() if each.is_assigned() or each.is_imported()]
    defined = {each.get_name() for each in found}
    tables, used = [module], set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {each.get_name() for each in table.get_symbols() if each.is_global()}
    return used - defined - set(dir(builtins))


def test_every_example_is_shown():
    examples = {path.name for path in (DOCS.parent / "examples").glob("*.py")}
    shown = re.findall(
        r"\{literalinclude\} \.\./examples/(\S+)", (DOCS / "examples.md").read_text("utf8")
    )
    assert sorted(shown) == sorted(examples)


def test_results_name_no_folder_of_a_machine():
    kept = [path for ending in ("json", "jsonl", "md") for path in RESULTS.rglob(f"*.{ending}")]
    assert kept
    for path in kept:
        assert not re.search(r'["\s`=](?:/[\w.~-]+){2}', path.read_text("utf8")), path
