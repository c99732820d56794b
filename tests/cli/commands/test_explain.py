"""``explain``: a table of positions, latents by their directions, and the causal test of an edited word."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_narrative.cli.main import main
from lit_narrative.lm.checkpoint import store_language_model
from lit_narrative.lm.load import ScratchModel, build_lm, scratch_config
from lit_narrative.lm.tokenizer import TrainedTokenizer, train_tokenizer
from lit_narrative.lm.vectors.inject import InjectionSettings, add_injector
from lit_narrative.lm.vectors.reconstructor import Reconstructor, ReconstructorSettings
from lit_narrative.tasks.verbalize.prompts import ACTOR_TEMPLATE, CRITIC_TEMPLATE, answer
from lit_narrative.tasks.verbalize.sidecar import Sidecar, SplitRecord
from lit_narrative.tasks.verbalize.stories import vocabulary_texts

WIDTH, LAYER, TEXT = 16, 1, "In the storm Elena walked to the harbour"
TOKENIZER = train_tokenizer(
    [*vocabulary_texts(), ACTOR_TEMPLATE, CRITIC_TEMPLATE, answer("fox"), "~"], TrainedTokenizer(kind="words")
)


def model(seed: int) -> Any:
    spec = ScratchModel("llama", hidden_size=WIDTH, layers=2, heads=2, positions=128, seed=seed)
    return build_lm(scratch_config(spec, len(TOKENIZER), TOKENIZER.eos_token_id), seed=seed).eval()


def save(lm: Any, path: Path) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": {f"lm.{name}": value for name, value in lm.state_dict().items()}}
    store_language_model(checkpoint, lm, TOKENIZER)
    torch.save(checkpoint, path)
    return path


def learned_actor() -> Any:
    """An actor that answers every vector with a fox: learned by heart, so that the test knows what it says."""
    lm = model(1)
    injector = add_injector(lm, TOKENIZER, InjectionSettings(marker="~", scale=1.0))
    prompt = ACTOR_TEMPLATE.replace("{marker}", "~")
    start = TOKENIZER.encode(prompt)
    ids = torch.tensor([[*start, *TOKENIZER.encode(answer("fox")), TOKENIZER.eos_token_id]])
    optimizer = torch.optim.Adam(lm.parameters(), 0.01)
    for _ in range(60):
        logits = lm(ids).logits[0, len(start) - 1 : -1]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, ids[0, len(start) :]).backward()
        optimizer.step()
    assert injector.marker_id in ids
    return lm.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subject, an actor and a critic, the sidecar of their activations, and an SAE."""
    folder = tmp_path_factory.mktemp("explain")
    subject = save(model(0), folder / "subject.ckpt")
    save(learned_actor(), folder / "actor.ckpt")
    Reconstructor(model(0), TOKENIZER, ReconstructorSettings(layer=LAYER)).save(folder / "critic.ckpt")
    nothing = {name: SplitRecord.of([]) for name in ("train", "val", "test")}
    token = TOKENIZER.convert_tokens_to_ids("~")
    Sidecar(
        str(subject), LAYER, WIDTH, 1, 1, "stories", "none", 0, False, 2.0, "~", token, (0, 0), ACTOR_TEMPLATE,
        CRITIC_TEMPLATE, nothing,
    ).save(folder)  # fmt: skip
    (folder / "sae").mkdir()
    save_file({"W_dec": torch.eye(4, WIDTH)}, folder / "sae" / "sae_weights.safetensors")
    return folder


def explain(run: Path, *more: str) -> None:
    main(["explain", "--ckpt", str(run / "actor.ckpt"), "--data", str(run), *more])


def test_a_table_of_positions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(run, "--text", TEXT, "--critic", str(run / "critic.ckpt"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(TEXT.split())
    assert lines[4].split()[:3] == ["3", "Elena", "fox"] and float(lines[4].split()[3]) <= 0
    explain(run, "--text", TEXT, "--last", "2")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["position", "6", "7"] and "score" not in lines[0]


def test_the_causal_test_shows_what_the_edit_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(run, "--text", TEXT, "--last", "1", "--critic", str(run / "critic.ckpt"), "--edit", "fox=snake")
    out = capsys.readouterr().out
    assert "own activation" in out and "KL 0." in out
    assert "log-probability of 'snake': " in out and "log-probability of 'fox': " in out


def test_latents_are_explained_by_their_directions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explain(run, "--sae", str(run / "sae"), "--latent", "0", "3")
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["latent", "explanation"], ["0", "fox"], ["3", "fox"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --text to read, or --sae"),
        (["--sae", "x"], "belong together"),
        (["--sae", "nowhere", "--latent", "0"], "holds no SAE"),
        (["--text", TEXT, "--edit", "fox"], "write old=new"),
        (["--text", TEXT, "--edit", "owl=fox", "--critic", "critic.ckpt"], "does not hold 'owl'"),
        (["--text", TEXT, "--edit", "fox=owl"], "there is no critic"),
        (["--text", " ".join(["fox"] * 200)], "200 tokens"),
        (["--text", TEXT, "--samples", "3"], "the best by the critic"),
        (["--sae", "sae", "--latent", "4"], "latents 0 to 3"),
    ],
)
def test_what_cannot_be_explained(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(SystemExit):
        explain(run, *arguments)
    assert message in capsys.readouterr().err


def test_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--text", "a"])
    assert "needs --ckpt" in capsys.readouterr().err
