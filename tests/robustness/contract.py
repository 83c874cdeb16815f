"""Contract tests of attacks: inherit `AttackContract` and set `attack`."""

from __future__ import annotations

import pytest
import torch

from fipray.robustness import Attack, ThreatModel, evaluate
from tests.margins import assert_above, assert_below
from tests.problems import generator
from tests.robustness.classifiers import FREE_L2, FREE_LINF, L2, LINF, Tanh, contested, predictions

every_threat_model = pytest.mark.parametrize("threat_model", [LINF, L2, FREE_LINF, FREE_L2])
every_seed = pytest.mark.parametrize("seed", range(2))


class AttackContract:
    """Properties of every attack; subclasses set `attack`."""

    attack: Attack

    def perturb(self, threat_model: ThreatModel, seed: int, dtype: torch.dtype = torch.float64, **settings: bool):
        classifier = Tanh.drawn(seed=seed, dtype=dtype)
        inputs = contested(classifier, 40, 1, 3, 3, seed=seed, dtype=dtype)
        labels = predictions(classifier, inputs)
        made = self.attack.perturb(classifier, inputs, labels, threat_model, generator(seed), **settings)
        return classifier, inputs, labels, made

    @every_seed
    @every_threat_model
    def test_adversarial_inputs_are_allowed_and_like_the_inputs(self, threat_model, seed):
        """Allowed to a few rounding errors of numbers near 1 in each dtype."""
        for dtype, atol in ((torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)):
            for until_fooled in (False, True):
                _, inputs, _, made = self.perturb(threat_model, seed, dtype, until_fooled=until_fooled)
                assert (made.shape, made.dtype, made.device) == (inputs.shape, inputs.dtype, inputs.device)
                assert not made.requires_grad
                assert bool(threat_model.contains(made, inputs, atol=atol).all())

    @every_threat_model
    def test_attack_changes_neither_inputs_nor_labels_nor_gradients(self, threat_model):
        classifier, inputs, labels, _ = self.perturb(threat_model, seed=0)
        parts = classifier.first, inputs
        before = [part.clone() for part in parts], labels.clone()
        for part in parts:
            part.requires_grad_()
        made = self.attack.perturb(classifier, inputs, labels, threat_model, generator())
        assert not made.requires_grad
        assert all(part.grad is None for part in parts)
        assert all(torch.equal(part, earlier) for part, earlier in zip(parts, before[0], strict=True))
        assert torch.equal(labels, before[1])

    @every_seed
    @every_threat_model
    def test_equal_generators_give_equal_inputs(self, threat_model, seed):
        first, second = (self.perturb(threat_model, seed)[3] for _ in range(2))
        assert torch.equal(first, second)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_epsilon_of_zero_returns_the_inputs(self, norm):
        _, inputs, _, made = self.perturb(ThreatModel(norm, 0.0), seed=0)
        assert torch.equal(made, inputs)

    @every_seed
    @every_threat_model
    def test_stopping_at_the_first_success_changes_no_result(self, threat_model, seed):
        classifier, _, labels, made = self.perturb(threat_model, seed)
        *_, stopped = self.perturb(threat_model, seed, until_fooled=True)
        per_example = predictions(classifier, made) == labels
        # A problem on which the attack partly succeeds; the spread of a count's root does not depend on its mean.
        assert_above(per_example.sum().sqrt(), 0)
        assert_below(per_example.sum(), len(per_example))
        assert torch.equal(predictions(classifier, stopped) == labels, per_example)

    @every_seed
    @every_threat_model
    def test_examples_misclassified_when_clean_are_never_robust(self, threat_model, seed):
        classifier = Tanh.drawn(seed=seed)
        inputs = contested(classifier, 40, 1, 3, 3, seed=seed)
        labels = predictions(classifier, inputs)
        labels[::3] = (labels[::3] + 1) % 4
        result = evaluate(classifier, inputs, labels, threat_model, [self.attack], generator(), batch_size=16)
        robust = result.robust[self.attack.name]
        assert not (robust & ~result.clean).any()
        assert_above(robust.sum(), 0)
        assert_below(robust.sum() - result.clean.sum(), 0)
        assert_below(result.clean.sum(), 40)

    @every_threat_model
    def test_memory_layout_of_images_does_not_matter(self, threat_model):
        """To 1e-12: sums may run in another order."""
        classifier, inputs, labels, made = self.perturb(threat_model, seed=1)
        other = inputs.expand(-1, 3, -1, -1).to(memory_format=torch.channels_last)[:, :1]
        again = self.attack.perturb(classifier, other, labels, threat_model, generator(1))
        torch.testing.assert_close(again, made, rtol=0, atol=1e-12)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    @every_threat_model
    def test_seed_means_the_same_on_every_device(self, threat_model):
        """To 1e-9: sums run in another order."""
        classifier, inputs, labels, made = self.perturb(threat_model, seed=0)
        there = Tanh(classifier.first.cuda(), classifier.shift.cuda(), classifier.second.cuda())
        again = self.attack.perturb(there, inputs.cuda(), labels.cuda(), threat_model, generator(0))
        assert again.is_cuda
        torch.testing.assert_close(again.cpu(), made, rtol=0, atol=1e-9)
