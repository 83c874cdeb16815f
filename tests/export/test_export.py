"""Exported files and directories."""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import fipray as fip
from fipray import analysis
from fipray.cli.entry import app
from fipray.errors import RecordsError, UsageError
from fipray.execution.stages import staged
from fipray.export import Options, export, read_state
from fipray.export.directories import Exporting
from fipray.export.loader import packed_2_4, unpacked
from fipray.networks import Network, sparsity_of
from tests.export import subjects

LENET = "tests.export.subjects:lenet"


def inputs(num: int = 7) -> torch.Tensor:
    return torch.from_numpy(subjects.images(num, 9))


def python_of(card: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    return code


def loaded(directory: Path, monkeypatch) -> nn.Module:
    """Run the lines of a model card in its directory."""
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(str(directory))
    sys.modules.pop("loader", None)
    names: dict[str, nn.Module] = {}
    exec(python_of((directory / "README.md").read_text()), names)
    sys.modules.pop("loader", None)
    return names["network"]


@pytest.mark.parametrize(("name", "layout"), [("both", "bundle"), ("both", "hf"), ("sparse", "hf")])
def test_a_directory_loads_with_the_lines_of_its_card_and_computes_the_same(
    results, tmp_path, monkeypatch, name, layout
):
    to = tmp_path / "out"
    options = Options(like=LENET, layout=layout)
    sentence = export(results.address, name, None, to, options=options)
    network = loaded(to, monkeypatch)
    assert torch.equal(network(inputs()), results.module(name)(inputs()))
    described = "path sparse, sparsity 0.428;" if name == "sparse" else "ensemble both of base, sparse, diverse;"
    assert sentence.startswith(f"{to}: {described}")
    assert f"{sum(f.stat().st_size for f in to.rglob('*') if f.is_file()):,} bytes" in sentence
    assert {file.name for file in to.iterdir()} >= {"README.md", "config.json", "model.safetensors"}


@pytest.mark.parametrize("layout", ["bundle", "hf"])
def test_a_directory_of_a_mixture_has_its_weights_and_temperatures(mixed, tmp_path, monkeypatch, layout):
    export(mixed.address, "both", None, tmp_path / "out", options=Options(like=LENET, layout=layout))
    network = loaded(tmp_path / "out", monkeypatch)
    assert torch.equal(network(inputs()), mixed.module("both", LENET)(inputs()))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["fipray"]
    assert config["weights"] == [0.125, 0.25, 0.625]
    assert config["temperatures"] == [1.0, 0.1, 2.0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "logarithms of the members' weighted mean class probabilities. Weights of the members, in this" in card
    assert (
        "order: 0.125, 0.25, 0.625. Their logits are divided by temperatures first, in this order: 1, 0.1, 2." in card
    )


def test_the_loader_of_a_bundle_needs_torch_alone(results, tmp_path):
    to = tmp_path / "out"
    export(results.address, "both", None, to, options=Options(like=LENET, packed=True))
    nodes = list(ast.walk(ast.parse((to / "loader.py").read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module).partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"torch"}


def test_the_card_and_the_tables_say_what_the_results_say(results, tmp_path):
    export(results.address, "sparse@0.25", None, tmp_path / "out/")
    card = (tmp_path / "out" / "README.md").read_text()
    row = results.variants.set_index("network").loc["sparse@0.25"]
    judged = analysis.judged_variants(results).set_index("network").loc["sparse@0.25"]
    cells = f"| sparse@0.25 | {row['sparsity']:.3f} | .* | {100 * row['clean_accuracy']:.1f} |"
    assert re.search(cells.replace("|", r"\|"), card)
    assert f"{100 * judged['robust_accuracy']:.1f} (20)" in card
    for text in (
        "FGSM",
        "worst linf 0.1",
        "semi_structured",
        results.manifest["study_id"],
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert text.lower() in card.lower(), text
    assert re.search(r"^````json$", card, flags=re.MULTILINE), "a fence in a parameter ends no block"
    tables = tmp_path / "out" / "tables"
    assert {"summary.csv", "robustness.csv", "variants.csv", "points.csv"} <= {file.name for file in tables.iterdir()}
    robustness = pd.read_csv(tables / "robustness.csv", keep_default_na=False)
    assert set(robustness["name"]) == {"base", "sparse", "sparse@0.25"}
    assert "host" not in robustness
    examples = pd.read_csv(tables / "per_example.csv", dtype=str)
    assert set(examples["clean"].str.len()) == {20}
    assert set("".join(examples["clean"])) <= {"0", "1"}


@pytest.mark.parametrize("name", ["base", "sparse", "sparse@0.25", "diverse"])
def test_sparsity_is_that_of_the_tables(results, name):
    weights = torch.from_numpy(results.weights(name))
    counted = sparsity_of(Network.of(subjects.lenet()), weights)
    assert analysis.facts(results, name).sparsity == pytest.approx(counted, abs=1e-12)
    assert f"{analysis.facts(results, name).sparsity_text}" == f"{counted:.3f}"
    shown = analysis.summary(results).set_index("name").loc[name, "sparsity"]
    assert analysis.facts(results, name).sparsity == shown


@pytest.mark.parametrize(("name", "suffix"), [("base", ".pt"), ("sparse@0.25", ".pt"), ("both", ".safetensors")])
def test_a_state_file_loads_strictly(results, tmp_path, name, suffix):
    file = tmp_path / f"x{suffix}"
    export(results.address, name, None, file)
    state = load_file(file) if suffix == ".safetensors" else torch.load(file, weights_only=True)
    module = results.module(name)
    wanted = module(inputs())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    module.load_state_dict(state, strict=True)
    assert torch.equal(module(inputs()), wanted)


def test_a_packed_network_is_smaller_and_unpacks_exactly(results, tmp_path, monkeypatch):
    state = results.module("sparse").state_dict()
    for place in ("x.safetensors", "x.pt", "bundle/"):
        sentence = export(
            results.address, "sparse", None, f"{tmp_path}/{place}", options=Options(like=LENET, packed=True)
        )
        assert "3 matrices are packed in 2:4 format" in sentence
        assert "0.weight (1 inputs, not a multiple of 4)" in sentence
    packed = load_file(tmp_path / "x.safetensors")
    assert packed["7.weight.values_2_4"].shape == (12, 4)
    assert (packed["7.weight.indices_2_4"].shape, packed["7.weight.indices_2_4"].dtype) == ((12, 1), torch.uint8)
    files = (read_state(tmp_path / "x.safetensors"), read_state(tmp_path / "bundle" / "model.safetensors"))
    for read in (*files, unpacked(torch.load(tmp_path / "x.pt", weights_only=True))):
        assert all(torch.equal(read[name], value) for name, value in state.items())
    assert torch.equal(loaded(tmp_path / "bundle", monkeypatch)(inputs()), results.module("sparse")(inputs()))
    config = json.loads((tmp_path / "bundle" / "config.json").read_text())["fipray"]
    assert config["packed_2_4"] == ["4.weight", "7.weight", "9.weight"]
    assert list(config["not_packed"]) == ["0.weight"]
    with pytest.raises(UsageError, match="no matrix of this network is in 2:4 format"):
        export(results.address, "diverse", None, tmp_path / "y.pt", options=Options(packed=True))


@pytest.mark.parametrize("shape", [(3, 4), (5, 8), (2, 12, 3, 3), (1, 20, 2), (4, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packing_is_exact_for_all_numbers(shape, dtype):
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draws).to(dtype)
    weight.flatten()[::7] = torch.inf
    keys = torch.rand(shape, generator=draws).movedim(1, -1).unflatten(-1, (-1, 4))
    ranks = keys.argsort(-1).argsort(-1)
    # groups of every number of non-zeros from 0 to 2
    kept = ranks < torch.randint(3, ranks.shape[:-1], generator=draws)[..., None]
    mask = kept.flatten(-2).movedim(-1, 1)
    weight = torch.where(mask, weight, 0)
    parts = packed_2_4(weight)
    assert parts is not None
    found = unpacked({f"w{suffix}": value for suffix, value in parts.items()})
    assert found.keys() == {"w"}
    assert torch.equal(found["w"], weight)
    assert parts[".values_2_4"].numel() == weight.numel() // 2
    if int(kept.sum(-1).max()) == 2:
        weight.movedim(1, -1).unflatten(-1, (-1, 4))[kept.sum(-1) == 2] = 1
        assert packed_2_4(weight) is None


def test_a_damaged_safetensors_file_is_recognised(results, tmp_path):
    file = tmp_path / "x.safetensors"
    export(results.address, "sparse", None, file)
    content = file.read_bytes()
    for wrong in (b"", content[:-1], content + b"0", content[:40], b"\xff" * 100, content[:9] + b"\xff" + content[10:]):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match="whole"):
            read_state(file)


def test_wrong_places_and_options_are_refused_and_nothing_is_written(results, tmp_path):
    (tmp_path / "there").mkdir()
    like = Options(like=LENET)
    for name, to, options, sentence in (
        ("nobody", "a.pt", like, "there are: base, diverse, sparse, sparse@0.25, both"),
        ("nobody", "a/", like, "there are: base, diverse, sparse, sparse@0.25, both"),
        ("sparse", "there", like, "there exists already"),
        ("sparse", "a.txt", like, r"has the suffix .txt: use one of .safetensors, .pt, .pth, .onnx"),
        ("sparse", "a.pt", Options(layout="hf"), "is the name of a file"),
        ("sparse", "a.onnx", Options(packed=True), "--packed is for .safetensors"),
        ("sparse", "a", Options(packed=True, layout="hf"), "--packed is for .safetensors"),
        ("sparse", "s3://bucket/a.pt", like, "is an address"),
        ("sparse", "a/", Options(like=nn.Linear(2, 2)), "Linear is not the module"),
    ):
        place = to if "://" in to else f"{tmp_path}/{to}"
        with pytest.raises(UsageError, match=sentence):
            export(results.address, name, None, place, options=options)
    with pytest.raises(UsageError, match="no layout 'zip'; valid ones are: hf, bundle"):
        Options(layout="zip")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("to", ["out/", "deep/out.safetensors"])
def test_a_full_disk_leaves_nothing_half_written(results, tmp_path, to):
    # A limit on file sizes stands in for a full disk: both fail in the middle of a write.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(RecordsError, match=r"Nothing was written\. Make room"):
            export(results.address, "sparse", None, f"{tmp_path}/{to}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file for file in tmp_path.rglob("*") if file.is_file() or file.name.startswith((".", "out"))] == []
    export(results.address, "sparse", None, f"{tmp_path}/{to}")


def test_the_command_makes_the_module_by_the_function_that_made_the_study(results, tmp_path):
    line = ["export", results.address, "--name", "both", "--to", f"{tmp_path}/out/", "--layout", "hf"]
    answer = CliRunner().invoke(app, line)
    assert answer.exit_code == 0, answer.output
    assert "ensemble both of base, sparse, diverse; layout hf" in " ".join(answer.output.split())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "module = Sequential(...)  # as tests.export.subjects:study makes it" in card


@pytest.mark.parametrize(
    ("to", "stages"),
    [
        ("x.pt", []),
        ("bundle/", ["writing the weights", "writing the tables", "writing the model card"]),
    ],
)
def test_an_export_says_what_it_does(results, tmp_path, to, stages):
    said = list[str]()
    with staged("fipray.export", said.append):
        export(
            results.address, "sparse", None, f"{tmp_path}/{to}", options=Options(layout="bundle" if stages else None)
        )
    assert said == ["reading the results", "making sparse", *stages]


def test_onnx_without_its_packages_names_the_extra(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"onnxscript.*not installed: pip install 'fipray\[onnx\]'"):
        export(results.address, "sparse", None, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_hub_mixin_loads_the_plain_directory(results, tmp_path):
    hub = pytest.importorskip("huggingface_hub")

    class Net(nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self, name: str = "mine") -> None:
            super().__init__()
            assert name == "mine"
            for key, part in subjects.lenet().named_children():
                self.add_module(key, part)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for part in self.children():
                x = part(x)
            return x

    export(results.address, "sparse", None, tmp_path / "out", options=Options(layout="hf"))
    network = Net.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(network(inputs()), results.module("sparse")(inputs()))


@pytest.mark.slow
def test_a_bundle_loads_in_a_process_that_has_no_fipray(results, tmp_path):
    export(results.address, "both", None, tmp_path / "out", options=Options(like=LENET))
    torch.save(inputs(), tmp_path / "x.pt")
    torch.save(subjects.lenet(), tmp_path / "module.pt")
    code = (
        "import sys, torch; sys.modules['fipray'] = sys.modules['safetensors'] = None; from loader import load; "
        "m = torch.load('../module.pt', weights_only=False); torch.save(load(m)(torch.load('../x.pt')), '../y.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "out", check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), results.module("both")(inputs()))


@pytest.mark.parametrize(
    ("reference", "ending"),
    [
        ("mynets:net", "module = net()"),
        ("timm:vit_tiny?depth=2", 'module = module_of("timm:vit_tiny?depth=2")'),
        ("hf:my/folder", "module = Sequential(...)  # as folder makes it"),
        ("my/file.py:net", "module = Sequential(...)  # as file.py:net makes it"),
    ],
)
def test_the_lines_that_make_the_module_are_python(results, reference, ending):
    lines = Exporting(results, "sparse", results.module("sparse", LENET), reference).making
    ast.parse(lines)
    assert lines.endswith(f"\n\n{ending}")


def test_a_result_of_a_recipe_is_exported_as_the_network_that_it_is(tmp_path):
    directory, to, options = tmp_path / "results", tmp_path / "out", Options(like=LENET)
    parameters = {"recipe": "prune", "results": json.dumps({"pruned": {"network": "sparse@0.25"}})}
    data = fip.Data(subjects.images(60, 1), subjects.images(20, 2))
    fip.LocalRunner().run(subjects.study_of(subjects.lenet(), data, parameters=parameters), directory)
    sentence = export(directory, "pruned", None, f"{to}.safetensors", options=options)
    assert "pruned, variant sparse@0.25, sparsity" in sentence
    assert "state of the study's module" in sentence
    assert f"{to}: pruned, variant sparse@0.25" in export(directory, "pruned", None, to, options=options)
    assert "# sparse@0.25" in (to / "README.md").read_text()
