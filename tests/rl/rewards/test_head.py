"""RewardHead: golden values, units, and the two losses."""

import pytest
import torch

from lit_narrative.errors import UserError
from lit_narrative.rl.rewards.head import RewardHead
from tests.paths import GOLDEN

FILE = GOLDEN / "poetry_reward.pt"


@pytest.mark.golden
@pytest.mark.skipif(not FILE.is_file(), reason=f"no golden values at {FILE}; set LIT_GOLDEN")
def test_golden_outputs() -> None:
    case = torch.load(FILE, weights_only=True)
    head = RewardHead(case["input_dim"], case["hidden_dims"], case["dropout"]).eval()
    head.network.load_state_dict({key.removeprefix("network."): value for key, value in case["state_dict"].items()})
    torch.testing.assert_close(head(case["inputs"]), case["outputs"], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(head.scores(head(case["inputs"])), case["outputs"], atol=1e-6, rtol=1e-6)


def small() -> RewardHead:
    """Two inputs, one hidden unit, weights by hand."""
    head = RewardHead(2, [1], 0.0).eval()
    with torch.no_grad():
        head.network[0].weight.copy_(torch.tensor([[2.0, -1.0]]))  # type: ignore[operator, union-attr]
        head.network[0].bias.fill_(0.5)  # type: ignore[operator, union-attr]
        head.network[3].weight.fill_(3.0)  # type: ignore[operator, union-attr]
        head.network[3].bias.fill_(-1.0)  # type: ignore[operator, union-attr]
    return head


def test_outputs_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.5], [-1.0, 0.0]])
    torch.testing.assert_close(small()(vectors), torch.tensor([3 * 2.0 - 1, -1.0]))


def test_units_come_from_the_training_set() -> None:
    head, vectors = small(), torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    head.fit_units(vectors, torch.tensor([10.0, 30.0]))
    torch.testing.assert_close(head.standard(vectors), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(head.scores(torch.tensor([-1.0, 1.0])), torch.tensor([10.0, 30.0]))
    torch.testing.assert_close(head.distance(torch.tensor([[2.0, 7.0], [8.0, 7.0]])), torch.tensor([0.0, 18.0**0.5]))


def test_preferences_leave_the_units_of_scores_alone() -> None:
    head = small()
    head.fit_units(torch.eye(2), torch.zeros(0))
    assert (head.score_mean, head.score_deviation) == (0, 1)


def test_losses_of_ratings_and_preferences_in_one_batch() -> None:
    head = small()
    head.score_mean.fill_(1.0)
    head.score_deviation.fill_(2.0)
    logits = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    paired, scores = torch.tensor([False, True, False]), torch.tensor([5.0, float("nan"), 5.0])
    costs = head.losses(logits, torch.tensor([1.0]), paired, scores)
    torch.testing.assert_close(costs, torch.tensor([1.0, torch.log1p(torch.tensor(1.0).exp()).item(), 0.0]))
    costs.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([-2.0, -torch.sigmoid(torch.tensor(1.0)).item(), 0.0]))


@pytest.mark.parametrize("settings", [{"hidden": [8, 0]}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_sizes_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"model\.(hidden|dropout) is"):
        RewardHead(4, **settings)  # type: ignore[arg-type]


def test_what_is_far_away_is_read_as_that_far() -> None:
    free, held = small(), RewardHead(2, [1], 0.0, limit=3.0).eval()
    held.load_state_dict(free.state_dict())
    near, far = torch.tensor([[1.0, -3.0]]), torch.tensor([[50.0, -7.0]])
    assert held(near) == free(near)
    assert held(far) == free(torch.tensor([[3.0, -3.0]]))
    assert held.distance(far) == free.distance(far)


def test_without_hidden_layers_it_is_linear() -> None:
    head = RewardHead(3, [])
    assert [type(layer).__name__ for layer in head.network] == ["Linear"]
    assert head(torch.zeros(2, 3)).shape == (2,)
