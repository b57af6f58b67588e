"""The contracts of a bundle. Each check returns one line per problem, none for a good bundle."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import logging
import logging.config
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow, ReferenceResolver

from tests.bundles.bundle_layout import REQUIRED_CONFIGS, config_files, documented_runs, is_override, read_config

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
MAX_LINES = {"inference": 120, "evaluate": 120}
MAX_LINES_ALONE = 140
MAX_LINES_OVERRIDE = 40
MAX_EXPRESSION = 80
MAX_OPTIONS = 30
WORKFLOW_TYPES = {"train": "train", "fine_tune": "train", "inference": "infer", "evaluate": "infer"}
RUNNER_NAMES = frozenset({"monai", "torch", "np", "numpy"})  # names that MONAI's parser provides to every expression
RUNNER_IDS = frozenset({"imports", "initialize", "run", "finalize"})
# Ids that MONAI Label sets or reads in the deployed bundle, beyond what MONAI itself requires.
MONAI_LABEL_IDS = {
    "train": (
        "network_def",
        "network",
        "train#dataset#data",
        "train#handlers",
        "validate#dataset#data",
        "validate#evaluator",
        "val_interval",
    ),
    "inference": ("preprocessing", "postprocessing"),
}
LOCATOR = ComponentLocator()


def leaves(node: Any, id_: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (id, value) of each scalar in a config."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from leaves(value, f"{id_}#{key}" if id_ else str(key))
    else:
        yield id_, node


def strings(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (id, value) of each string in a config."""
    return ((id_, value) for id_, value in leaves(config) if isinstance(value, str))


def resolve(name: str) -> Any:
    """Returns the object that a `_target_` or a dotted name refers to.

    Raises:
        LookupError: if there is no such object, or its module cannot be imported.
    """
    if "." not in name:
        module = LOCATOR.get_component_module_name(name)
        if module is None:
            raise LookupError(f"{name} is no component of MONAI")
        name = f"{module if isinstance(module, str) else module[0]}.{name}"
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module_name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise LookupError(f"{name}: {error}") from error
            continue
        for attribute in parts[count:]:
            if not hasattr(found, attribute):
                raise LookupError(f"{name}: {module_name} has no {'.'.join(parts[count:])}")
            found = getattr(found, attribute)
        return found
    raise LookupError(f"{name}: no module {parts[0]}")


def check_files(bundle: Path, licence: Path) -> list[str]:
    """Checks that the files every bundle has exist, and that its licence is that of the project."""
    wanted = ["LICENSE", "configs/metadata.json", "configs/logging.conf", "docs/README.md"]
    problems = [f"{bundle.name}: {name} is missing" for name in wanted if not (bundle / name).is_file()]
    stems = {path.stem for path in config_files(bundle) if not is_override(path)}
    for stem in REQUIRED_CONFIGS.get(bundle.name, ()):
        if stem not in stems:
            problems.append(f"{bundle.name}: no configs/{stem} that stands alone (with its own bundle_root)")
    if bundle.name == "segmentation":
        others = [path.name for path in config_files(bundle) if path.suffix != ".json"]
        problems += [f"{bundle.name}: {name} is not JSON, which is all monai.bundle.load opens" for name in others]
    own = bundle / "LICENSE"
    if own.is_file() and own.read_bytes() != licence.read_bytes():
        problems.append(f"{bundle.name}: LICENSE differs from the project's")
    return problems


def check_metadata(bundle: Path) -> list[str]:
    """Check `metadata.json` against the schema, and that it has a name and a changelog entry for its version."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    problems = [f"metadata.json: {error.json_path}: {error.message}" for error in validator.iter_errors(metadata)]
    if not metadata.get("name"):
        problems.append("metadata.json: no name")
    if metadata.get("version") not in metadata.get("changelog", {}):
        problems.append(f"metadata.json: changelog has no entry for version {metadata.get('version')}")
    if not str(metadata.get("schema", "")).endswith(f"/{SCHEMA.name}"):
        problems.append(f"metadata.json: schema is {metadata.get('schema')}, not a link to {SCHEMA.name}")
    return problems


def check_logging(bundle: Path) -> list[str]:
    """Checks that `logging.config.fileConfig` accepts `logging.conf`, without changing the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logging.config.fileConfig(bundle / "configs" / "logging.conf", disable_existing_loggers=False)
    except Exception as error:  # whatever the file makes fileConfig raise is the finding
        return [f"logging.conf: {type(error).__name__}: {error}"]
    finally:
        root.handlers[:], root.level = handlers, level
    return []


def check_size(config: Path) -> list[str]:
    """Check the number of lines of a config."""
    limit = MAX_LINES_OVERRIDE if is_override(config) else MAX_LINES.get(config.stem, MAX_LINES_ALONE)
    lines = len(config.read_text(encoding="utf-8").splitlines())
    return [f"{config.name}: {lines} lines, at most {limit}"] if lines > limit else []


def check_options(config: Path) -> list[str]:
    """Checks that a config has few ids for users to override: all top-level ids before the network."""
    if is_override(config):
        return []
    ids = [id_ for id_ in read_config(config) if id_ not in RUNNER_IDS]
    options = ids[: ids.index("task_def")] if "task_def" in ids else ids
    return [f"{config.name}: {len(options)} options, at most {MAX_OPTIONS}"] if len(options) > MAX_OPTIONS else []


def check_references(configs: list[Path]) -> list[str]:
    """Check that a run's configs parse together and that each `@id` in them exists."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    parser.read_meta(str(configs[0].parent / "metadata.json"))
    parser.parse(True)
    return [
        f"{configs[-1].name}: {id_}: no @{_shown(reference)}"
        for id_, value in strings(parser.get())
        for reference in ReferenceResolver.match_refs_pattern(value)
        if reference not in parser
    ]


def _shown(id_: str) -> str:
    """Returns an id as written in the configs: MONAI turns `a#b` into `a::b`."""
    return id_.replace("::", "#")


def _syntax(expression: str) -> ast.AST | None:
    """Returns the syntax tree of a `$` expression, references replaced by a plain name; None if it is not Python."""
    try:
        return ast.parse(ReferenceResolver.id_matcher.sub("reference", ReferenceResolver.normalize_id(expression[1:])))
    except SyntaxError:
        return None


def check_expressions(config: Path) -> list[str]:
    """Checks that each `$` expression is short, is Python and makes no decision (`if`, `lambda`)."""
    problems = []
    for id_, value in strings(read_config(config)):
        if not value.startswith("$"):
            continue
        tree = _syntax(value)
        if len(value) > MAX_EXPRESSION:
            problems.append(f"{config.name}: {id_}: {len(value)} characters, at most {MAX_EXPRESSION}")
        if tree is None:
            problems.append(f"{config.name}: {id_}: not a Python expression: {value}")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Lambda):
                problems.append(f"{config.name}: {id_}: lambda; make it a named function")
            if isinstance(node, ast.IfExp | ast.If) or (isinstance(node, ast.comprehension) and node.ifs):
                problems.append(f"{config.name}: {id_}: if; make it a named function")
    return problems


def _dotted_names(value: str) -> Iterator[str]:
    """Yields the names in a string that must exist: of this package anywhere, and of every import in an expression."""
    yield from re.findall(r"\btskd_monai(?:\.[A-Za-z_]\w*)+", value)
    tree = _syntax(value) if value.startswith("$") else None
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def check_names(config: Path) -> list[str]:
    """Check that every `_target_`, every import and every dotted name of this package is an object."""
    problems = []
    for id_, value in strings(read_config(config)):
        names = set(_dotted_names(value))
        if id_.rsplit("#", 1)[-1] == "_target_" and value[:1] not in "$@%":
            names.add(value)
        for name in sorted(names):
            try:
                found = resolve(name) if "." in name or name == value else importlib.import_module(name)
            except (LookupError, ImportError) as error:
                problems.append(f"{config.name}: {id_}: {error}")
            else:
                if name == value and id_.endswith("_target_") and not callable(found):
                    problems.append(f"{config.name}: {id_}: {name} cannot be called")
    return problems


def _names_used(value: str) -> set[str]:
    """Returns the variables that an expression reads and does not define itself."""
    tree = _syntax(value)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)] if tree else []
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return {node.id for node in names} - made - {"reference"} - set(dir(builtins))


def check_imports(configs: list[Path]) -> list[str]:
    """Check that every name an expression of a run reads was imported by an expression of that run.

    MONAI binds only the first name of an import, and `import a.b` binds neither `a` nor `b`: such a name needs an `as`.
    """
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    expressions = [(id_, value) for id_, value in strings(parser.get()) if value.startswith("$")]
    imported = set(RUNNER_NAMES)
    for _, value in expressions:
        for node in ast.walk(_syntax(value) or ast.Module([], [])):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imported.add(node.names[0].asname or node.names[0].name)
    return [
        f"{configs[-1].name}: {id_}: {name} is not imported"
        for id_, value in expressions
        for name in sorted(_names_used(value) - imported)
    ]


def _takes_argument(parser: ConfigParser, id_: str) -> bool:
    """Returns whether `id_` is an argument that the component above it accepts."""
    parent, _, argument = id_.rpartition("#")
    component = parser.get(parent) if parent else None
    if not isinstance(component, dict) or not isinstance(component.get("_target_"), str):
        return False
    target = resolve(component["_target_"])
    # A class may pass other arguments on to its base class.
    callables = [vars(base).get("__init__") for base in target.__mro__] if inspect.isclass(target) else [target]
    return any(argument in inspect.signature(each).parameters for each in callables if inspect.isfunction(each))


def check_override(override: Path) -> list[str]:
    """Checks that the ids an override sets exist in the configs it is documented to follow.

    New ids are allowed where a misspelt one would be noticed: ids the runner reads, ids the override itself refers to,
    and arguments that their component accepts.
    """
    content = read_config(override)
    runs = documented_runs(override)
    if not runs:
        return [f"{override.name}: no documented run; write --config_file \"['configs/…','configs/{override.name}']\""]
    references = (ReferenceResolver.match_refs_pattern(value) for _, value in strings(content))
    used = {_shown(reference) for found in references for reference in found}
    problems = []
    for *bases, _ in runs:
        absent = [path.name for path in bases if not path.is_file()]
        if absent:
            problems.append(f"{override.name}: documented to follow {', '.join(absent)}, which does not exist")
            continue
        parser = ConfigParser()
        parser.read_config([str(path) for path in bases])
        for key in content:
            if key.endswith("#_target_"):  # the arguments are then those of another component
                parser[key] = content[key]
        for key in content:
            id_ = _shown(key.removeprefix("+"))
            if re.search(r"#\d+(#|$)", id_):
                problems.append(f"{override.name}: {key}: a list position")
            elif id_ not in parser and not (id_ in RUNNER_IDS | used or _takes_argument(parser, id_)):
                problems.append(f"{override.name}: {key}: no such id in {', '.join(path.name for path in bases)}")
    return problems


class _TextWorkflow(ConfigWorkflow):
    """MONAI's check of a workflow's properties on the text of the configs, without building or reading anything."""

    def _get_property(self, name: str, property: dict) -> Any:
        id_ = self._get_prop_id(name, property)
        if id_ is None or id_ not in self.parser:
            raise AttributeError(f"no {id_}")
        return self.parser.get(id_)

    def _get_prop_id(self, name: str, property: dict) -> str | None:
        return property.get("id")

    def _check_optional_id(self, name: str, property: dict) -> bool:
        # An inline component refers to nothing; MONAI 1.6 treats it as a reference and fails.
        written = property.get("refer_id")
        if written and isinstance(self.parser.get(written), dict | list):
            return True
        return super()._check_optional_id(name, property)


def _normalised(node: Any) -> Any:
    """Return a config with references as MONAI compares them: `@a::b` for `@a#b`."""
    if isinstance(node, dict):
        return {key: _normalised(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_normalised(value) for value in node]
    return ReferenceResolver.normalize_id(node) if isinstance(node, str) and node.startswith("@") else node


def check_properties(configs: list[Path]) -> list[str]:
    """Check that a run has each id MONAI requires of its kind, and for the deployed bundle each MONAI Label uses."""
    first = configs[0]
    kind = WORKFLOW_TYPES.get(first.stem)
    workflow = _TextWorkflow(config_file=[str(path) for path in configs], workflow_type=kind, logging_file=False)
    wanted = ["bundle_root", "device", "run"]
    deployed = first.parent.parent.name == "segmentation"
    if deployed:
        wanted += MONAI_LABEL_IDS.get(first.stem, ())
    problems = [f"{configs[-1].name}: no {id_}" for id_ in wanted if id_ not in workflow.parser]
    if "train#handlers" in workflow.parser:
        handlers = workflow.parser["train#handlers"]
        if not isinstance(handlers, list):
            return [*problems, f"{configs[-1].name}: train#handlers is not a list"]
        components = [handler for handler in handlers if isinstance(handler, dict)]
        if deployed and len(components) < len(handlers):
            problems.append(f"{configs[-1].name}: train#handlers holds a reference; MONAI Label reads components only")
        workflow.parser["train#handlers"] = components  # MONAI's check stops at a reference
    workflow.parser.set(_normalised(workflow.parser.get()))
    properties = workflow.properties or {}
    failed = workflow.check_properties() or []
    return problems + [f"{configs[-1].name}: property {name} ({_shown(properties[name]['id'])})" for name in failed]
