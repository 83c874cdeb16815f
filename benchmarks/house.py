"""Measures of the code itself: sizes, cycles, documentation. Reads source files alone, of any checkout or revision.

python -m benchmarks.house                         # this checkout
python -m benchmarks.house e24e25d HEAD            # two revisions of it, side by side
python -m benchmarks.house --missing fipray/paths  # public callables whose arguments or results are not documented
"""

from __future__ import annotations

import argparse
import ast
import io
import random
import re
import statistics
import subprocess
import tarfile
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CLAUSES = re.compile(r"(what|who|whom|whose|how|where|which|of|as)\b", re.IGNORECASE)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Documented:
    """A public function, method or class with arguments.

    `is_documented`: it has a section of arguments, and one of results where it gives any. A method without a docstring
    that implements a documented method of a protocol or of a base in the package counts as documented there.
    """

    place: str
    is_documented: bool


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str
    path: Path
    source: str
    tree: ast.Module

    @property
    def num_lines(self) -> int:
        """Lines, blank ones and comments among them."""
        return len(self.source.splitlines())

    @property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones among them."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def docstrings(self) -> list[str]:
        """Docstrings of the module, its classes and functions."""
        nodes = [self.tree, *(node for node in ast.walk(self.tree) if isinstance(node, Function | ast.ClassDef))]
        return [text for node in nodes if (text := ast.get_docstring(node))]

    @property
    def num_comments(self) -> int:
        """Lines with a comment, directives to linters and type checkers left out."""
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        comments = [one for one in tokens if one.type == tokenize.COMMENT]
        return len({one.start[0] for one in comments if not re.match(r"#\s*(noqa|type:|pragma)", one.string)})


def modules_of(root: Path) -> list[Module]:
    """Source files of the package in a checkout.

    Args:
        root: folder that holds `fipray/`.

    Returns:
        Modules in the order of their names.
    """
    found = []
    for path in sorted((root / "fipray").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        source = path.read_text()
        found.append(Module(name, path, source, ast.parse(source)))
    return found


def imported(module: Module, names: set[str]) -> set[str]:
    """Modules of the package that a module imports anywhere, for type checkers alone too.

    Args:
        module: the importing module.
        names: all modules of the package.

    Returns:
        Names of modules; a name imported from a package counts as an import of that package unless it is a module.
    """
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (parts & names) or {node.module} & names
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & names
    return found - {module.name}


def cycles_of(modules: list[Module]) -> list[list[str]]:
    """Find groups of modules that import each other, directly or in a circle (strongly connected components).

    Args:
        modules: all modules of the package.

    Returns:
        Groups of two modules or more.
    """
    names = {module.name for module in modules}
    edges = {module.name: imported(module, names) for module in modules}

    def reached(start: str) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            for name in edges[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    reach = {name: reached(name) for name in edges}
    groups = {frozenset({other for other in reach[name] if name in reach[other]} | {name}) for name in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def documented(modules: list[Module]) -> Iterator[Documented]:
    """Public callables with arguments, and whether these and their results are documented.

    Args:
        modules: all modules of the package.

    Yields:
        One a callable.
    """
    classes = [(module, node) for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    inherited = {
        part.name for _, node in classes for part in node.body if isinstance(part, Function) and _is_complete(part)
    }
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, Function) and _is_public(node.name):
                yield from _judged(f"{module.name}:{node.name}", node, frozenset())
            elif isinstance(node, ast.ClassDef) and _is_public(node.name):
                yield from _judged_class(module.name, node, inherited)


def _judged_class(module: str, node: ast.ClassDef, inherited: set[str]) -> Iterator[Documented]:
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and _is_field(part)]
    starts = [part for part in node.body if isinstance(part, Function) and part.name == "__init__"]
    is_dataclass = any("dataclass" in ast.unparse(one) for one in node.decorator_list)
    if (is_dataclass and fields) or any(_arguments(part) for part in starts):
        texts = (ast.get_docstring(node) or "", *(ast.get_docstring(part) or "" for part in starts))
        has = any(re.search(r"^ *(Args|Attributes):", text, re.MULTILINE) for text in texts)
        yield Documented(f"{module}:{node.name}", has)
    for part in node.body:
        if isinstance(part, Function) and _is_public(part.name):
            yield from _judged(f"{module}:{node.name}.{part.name}", part, inherited)


def _judged(place: str, node: Function, inherited: frozenset[str] | set[str]) -> Iterator[Documented]:
    if any("overload" in ast.unparse(one) or "setter" in ast.unparse(one) for one in node.decorator_list):
        return
    if _arguments(node):
        yield Documented(
            place, _is_complete(node) if ast.get_docstring(node) else node.name in inherited and bool(inherited)
        )


def _is_complete(node: Function) -> bool:
    text = ast.get_docstring(node) or ""
    gives = node.returns is not None and ast.unparse(node.returns) not in ("None", "Never", "NoReturn")
    has_results = re.search(r"^(Returns|Yields):", text, re.MULTILINE) or not gives
    return bool(re.search(r"^Args:", text, re.MULTILINE) and has_results)


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _is_field(node: ast.AnnAssign) -> bool:
    is_class_variable = "ClassVar" in ast.unparse(node.annotation)
    return isinstance(node.target, ast.Name) and _is_public(node.target.id) and not is_class_variable


def _arguments(node: Function) -> list[str]:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [one.arg for one in every if one is not None and one.arg not in ("self", "cls")]


def measures_of(root: Path) -> dict[str, str]:
    """Compute all measures of a checkout.

    Args:
        root: its folder.

    Returns:
        Measures as text, by name.
    """
    modules = modules_of(root)
    functions = [(node, module) for module in modules for node in module.functions]
    lengths = [node.end_lineno - node.lineno + 1 for node, _ in functions if node.end_lineno]
    longest = max(functions, key=lambda one: (one[0].end_lineno or 0) - one[0].lineno)
    most = max(functions, key=lambda one: len(_arguments(one[0])))
    long = max(modules, key=lambda module: module.num_lines)
    lines = sum(module.num_lines for module in modules)
    callables = list(documented(modules))
    docstrings = [text for module in modules for text in module.docstrings]
    cycles = cycles_of(modules)
    readme = root / "README.md"
    return {
        "modules": f"{len(modules)}",
        "lines": f"{lines:,}",
        "longest module": f"{long.num_lines} ({long.name.removeprefix('fipray.')})",
        "modules past 300 lines": f"{sum(module.num_lines > 300 for module in modules)}",
        "functions": f"{len(functions):,}",
        "median function, lines": f"{statistics.median(lengths):g}",
        "longest function, lines": f"{max(lengths)} ({longest[0].name} in {longest[1].name.removeprefix('fipray.')})",
        "most parameters": f"{len(_arguments(most[0]))} ({most[0].name})",
        "functions past 8 parameters": f"{sum(len(_arguments(node)) > 8 for node, _ in functions)}",
        "names in fip": _names_in(root),
        "import cycles": f"{len(cycles)}" + (f" (largest of {max(map(len, cycles))} modules)" if cycles else ""),
        "public callables with arguments": f"{len(callables):,}",
        "of them documented": f"{sum(one.is_documented for one in callables) / max(len(callables), 1):.1%}",
        "docstrings": f"{len(docstrings):,}",
        "of them begin with a clause": f"{sum(bool(CLAUSES.match(text)) for text in docstrings) / len(docstrings):.1%}",
        "comment lines": f"{sum(module.num_comments for module in modules) / lines:.1%}",
        "README lines": f"{len(readme.read_text().splitlines())}",
    }


def sentences_of(root: Path) -> dict[str, str]:
    """First sentences of docstrings.

    Args:
        root: folder of a checkout.

    Returns:
        Sentences by the names of their functions, methods and classes; names that occur twice are left out.
    """
    found: dict[str, list[str]] = {}
    for module in modules_of(root):
        waiting: list[tuple[str, ast.AST]] = [("", module.tree)]
        while waiting:
            prefix, node = waiting.pop()
            for part in ast.iter_child_nodes(node):
                if isinstance(part, Function | ast.ClassDef):
                    text = ast.get_docstring(part) or ""
                    sentence = re.split(r"(?<=[.:;])\s|\n\n", text, maxsplit=1)[0]
                    found.setdefault(f"{prefix}{part.name}", []).append(" ".join(sentence.split()))
                    waiting.append((f"{prefix}{part.name}.", part))
    return {name: texts[0] for name, texts in found.items() if len(texts) == 1 and texts[0]}


def _names_in(root: Path) -> str:
    """Names and namespaces that `import fipray` offers, from the stub or, before there was one, from the module."""
    stub = root / "fipray" / "__init__.pyi"
    file = stub if stub.exists() else root / "fipray" / "__init__.py"
    imports = [
        node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and node.module
    ]
    names = {alias.name for node in imports for alias in node.names if node.level or "fipray" in (node.module or "")}
    bare = [
        node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom) and not node.module
    ]
    spaces = {alias.name for node in bare for alias in node.names}
    spaces |= {name for name in names if _is_module(root, name)}
    names -= spaces
    return f"{len(names)}" + (f" and {len(spaces)} namespaces" if spaces else "")


def _is_module(root: Path, name: str) -> bool:
    found = [*(root / "fipray").rglob(f"{name}.py"), *(root / "fipray").rglob(f"{name}/__init__.py")]
    return bool(found) and name not in ("trace", "connect", "search", "walk")


def _unpacked(revision: str, folder: Path) -> Path:
    """Unpack a revision into a folder of its own and return that."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder / revision.replace("/", "-"), filter="data")
    return folder / revision.replace("/", "-")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs="*", help="revisions of git; none: the files as they are")
    parser.add_argument("--missing", metavar="FOLDER", help="list what is not documented in a folder")
    parser.add_argument("--sentences", type=int, metavar="N", help="draw sentences of two revisions")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--cycles", action="store_true", help="list the modules that import each other")
    arguments = parser.parse_args()
    console = Console()
    if arguments.missing is not None:
        below = ".".join(Path(arguments.missing).with_suffix("").parts)
        for one in documented(modules_of(ROOT)):
            if one.place.startswith(below) and not one.is_documented:
                console.print(one.place, markup=False)
        return
    if arguments.cycles:
        for group in cycles_of(modules_of(ROOT)):
            console.print(" ".join(group), markup=False)
        return
    with tempfile.TemporaryDirectory() as folder:
        roots = {revision: _unpacked(revision, Path(folder)) for revision in arguments.revisions} or {"here": ROOT}
        if arguments.sentences:
            before, after = (sentences_of(root) for root in roots.values())
            drawn = random.Random(arguments.seed).sample(sorted({*before} & {*after}), arguments.sentences)
            table = Table("name", *roots, show_lines=True)
            for name in drawn:
                table.add_row(name, before[name], after[name])
            console.print(table)
            return
        columns = {name: measures_of(root) for name, root in roots.items()}
    table = Table("measure", *columns)
    for name in next(iter(columns.values())):
        table.add_row(name, *(column[name] for column in columns.values()))
    console.print(table)


if __name__ == "__main__":
    _main()
