"""A module as a pure function of one flat weight vector."""

from __future__ import annotations

import copy
import html
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.networks.arrays import AnyWeights
from fipray.networks.checks.run import run_checks
from fipray.networks.compute import Compute
from fipray.networks.embedding import OutputGeometry
from fipray.networks.frozen import Frozen
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.inputs import check_device, check_inputs
from fipray.networks.modules import copied, unwrapped
from fipray.networks.origin import Origin
from fipray.networks.parameters import listed, matching, parameter_names
from fipray.networks.refusals import refuse_shared_memory, refuse_unsupported
from fipray.printable import printable

# The usual sources of randomness, refused by name at once; all others are found by `check`, which needs inputs.
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
# In training mode these normalise by the batch and write into their buffers, so outputs would be no function of w.
_WITH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Network(FunctionalModule):
    """`f(w, x)`: a module as a pure function of one flat weight vector `w` [P] and inputs `x` [N, ...].

    Make one with `Network.of(module)`, and call it with weights and inputs: `network(network.weights, inputs)`.

    The module is copied; the caller's own is never changed. Buffers, such as the running statistics of BatchNorm, are
    frozen: layers that keep statistics are put in evaluation mode. Parameters that layers share appear once in the
    vector. Parameters that are not in the vector are constant, and stay in the memory of the module that was given: a
    path of adapters or of a head needs memory for these alone. If they change in that module, as by training it
    further, the network's next use is an error. Writes that autograd does not count (by `.data`, numpy, or a fused
    optimizer) are found by the next `module_at` or `check`, with which every path begins.

    The vector is float32 for weights in half precision (float64 where a parameter is), like the master weights of
    mixed-precision training: each parameter is cast to its own dtype, and outputs are cast to the vector's.

    Attributes:
        weights: the network's own weights [P], those of the module that was given.
        num_weights: P.
        slots: position of each parameter in the vector, in order.
        moving: the slots whose weights may change, see `only`.
        mask: 1 for weights that may change and 0 for others [P]; None where all may change.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Take over a module; use `Network.of` to copy and check one.

        Args:
            module: the module, not copied: its parameters stop requiring gradients.
            names: names of the parameters in the vector, in order.
        """
        self._required_grad = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
        super().__init__(module, names)

    @classmethod
    @checked
    def of(cls, module: nn.Module, *, moving: str | Sequence[str] | None = None) -> Network:
        """Make a network of a module.

        Args:
            module: the module, or a wrapper of it (torch.compile, DataParallel, DistributedDataParallel).
            moving: names of the parameters that the vector holds, or patterns such as `"fc*.weight"`; None for those
                that require gradients.

        Returns:
            The network of a copy of the module, which shares the memory of all other parameters.

        Raises:
            NetworkError: for a module without parameters or with all of them frozen, with active dropout, with
                parameters on several devices, without values or complex; for one that is scripted, quantised or cannot
                be copied; and if a name in `moving` matches no parameter.
        """
        module = unwrapped(module)
        active = [
            name for name, part in module.named_modules() if isinstance(part, _DROPOUT) and part.training and part.p
        ]
        if active:
            raise NetworkError(
                f"dropout is active in {listed(active)}, so the module's outputs change from pass to pass and are not "
                "a function of its weights: call module.eval() first"
            )
        refuse_unsupported(module)
        refuse_shared_memory(module)
        given = module
        shell = copied(given, given.parameters())  # no memory of its own; has the names without wrappers
        names = parameter_names(shell, moving)
        # Both iterators leave out repeated parameters in the same way, so names and parameters correspond.
        own = {name: one for (name, _), one in zip(shell.named_parameters(), given.parameters(), strict=True)}
        module = copied(given, (one for name, one in own.items() if name not in names))
        for part in module.modules():
            if isinstance(part, _WITH_STATISTICS):
                part.eval()
        devices = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers())}
        if len(devices) > 1:
            raise NetworkError(
                f"this module's tensors are on several devices ({', '.join(devices)}): move them to one with "
                "module.to(device)"
            )
        network = cls(module, names)
        network.origin = Origin(own, own.values())
        network.frozen = network._shared_with(own)
        return network

    def _shared_with(self, others: Mapping[str, nn.Parameter]) -> Frozen:
        """Those parameters outside of the vector that are in the memory of others."""
        # Not all of them where a module copies itself in a way of its own.
        return Frozen({name: one for name, one in self.outside() if one.data_ptr() == others[name].data_ptr()})

    @checked
    def only(self, moving: str | Sequence[str]) -> Network:
        """Restrict which weights may change; the vector stays the same.

        For networks that share one vector, such as paths of a study of which only some move a part. Time and memory
        stay those of all P weights: where all paths move the same small part of a large network, such as adapters or a
        head, `Network.of(module, moving=...)` makes the vector of these alone.

        Args:
            moving: names of the parameters that may change, or patterns such as `"head.*"`.

        Returns:
            A network of whose weights only these may change. Paths of it leave all others as they are.

        Raises:
            NetworkError: if a name matches no parameter in the vector, or none that may change.
        """
        slots = {slot.name: slot for slot in self.moving}
        aliases = self.aliases()
        names = matching(moving, [(alias, own) for alias, own in aliases if own in slots])
        restricted = copy.copy(self)
        restricted.moving = tuple(slot for slot in self.moving if slot.name in names)
        restricted.mask = None
        if len(restricted.moving) < len(self.slots):
            restricted.mask = torch.zeros_like(self.weights)
            for slot in restricted.moving:
                restricted.mask[slot.start : slot.stop] = 1
        return restricted

    @checked
    def at(self, weights: AnyWeights) -> Network:
        """Replace the network's own weights.

        Args:
            weights: [P].

        Returns:
            A network with `weights` as its own, from which its paths begin.

        Raises:
            NetworkError: if `weights` is not [P].
        """
        self.named(weights)  # raises for weights of another network
        moved = copy.copy(self)
        moved.weights = weights.detach()  # the graph in which they were computed must not be kept alive
        return moved

    @checked
    def computed(self, compute: Compute) -> Network:
        """Choose how passes through the network are computed.

        Args:
            compute: precision, memory format and size of the passes. TF32 and deterministic algorithms are settings of
                the whole process, which this switches on.

        Returns:
            A network whose passes are computed this way.

        Raises:
            UsageError: for a lower precision than that of weights in float64.
        """
        if self.weights.dtype is torch.float64 and compute.precision != "fp32":
            raise UsageError(
                f"precision={compute.precision!r} is for weights in float32, and these are in float64: use 'fp32'"
            )
        compute.prepare_process()
        other = copy.copy(self)
        other.compute = compute
        return other

    @checked
    def to(self, device: torch.device | str) -> Network:
        """Copy the network to a device.

        Args:
            device: such as "cpu" or "cuda:0".

        Returns:
            The same network there.

        Raises:
            UsageError: if this machine has no such device.
        """
        check_device(device)
        there = copy.copy(self)
        outside = dict(self.outside())
        # nn.Module.to works in place, but by assignment to `.data`, which leaves shared memory as it is.
        there._module = copied(self._module, outside.values()).to(device)
        there.frozen = there._shared_with(outside)
        there.weights = self.weights.to(device)
        there._hold_once()
        there.mask = None if self.mask is None else self.mask.to(device)
        return there

    @checked
    def module_at(self, weights: AnyWeights, *, share_frozen: bool = False) -> nn.Module:
        """Copy the module with other weights.

        Args:
            weights: [P].
            share_frozen: whether parameters outside of the vector stay in the memory of the module that was given. Such
                a copy is as small as the vector; nothing may write into these parameters, as training all of it would.

        Returns:
            A new module, each parameter in its own dtype and requiring gradients where that of the given module does.

        Raises:
            NetworkError: if `weights` is not [P].
        """
        # A copy reads all values in any case.
        self.frozen.verify() if share_frozen else self.frozen.verify_values()
        module = copied(self._module, (one for _, one in self.outside()) if share_frozen else ())
        values = self.named(weights.detach())
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.data.copy_(values[name])  # casts to the dtype of the parameter
            parameter.requires_grad_(self._required_grad[name])
        return module

    def check(self, inputs: Tensor, geometry: OutputGeometry | None = None) -> None:
        """Check that the network is a pure function of its weights on these inputs, see `fipray.networks.checks.run`.

        Results are kept, so a second check on inputs of the same shape, dtype and device costs one forward pass.

        Args:
            inputs: [N, ...] of finite numbers.
            geometry: output geometry that must be able to embed the outputs and to tell different ones apart; None to
                skip this.

        Raises:
            DataError: for inputs that are not finite or that the module does not accept.
            NetworkError: for all other faults of the module.
        """
        check_inputs(inputs, self.weights)
        run_checks(self, inputs, geometry)

    def _summary(self) -> dict[str, str]:
        return {
            "module": printable(type(self._module).__name__),
            "weights": f"{self.num_weights:,}",
            "may move": f"{self.num_moving:,}",
            "dtype": str(self.weights.dtype).removeprefix("torch."),
            "device": str(self.weights.device),
        }

    def __repr__(self) -> str:
        summary = self._summary()
        return (
            f"Network of {summary['module']}: {summary['weights']} weights, {summary['may move']} of which may move, "
            f"{summary['dtype']} on {summary['device']}"
        )

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self._summary().items())
        return f"<table>{''.join(rows)}</table>"
