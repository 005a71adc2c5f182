"""The 1D convolutional networks that read oxide abundances off a reflectance spectrum."""

from __future__ import annotations

from lunarray.errors import needs
from lunarray.oxides.light import LEVEL_SPREAD, LOG_STD, UNKNOWN

with needs("torch", "the network of oxides as a torch module"):
    import torch
    from torch import Tensor, nn


#: Channels of the five convolutional blocks, in units of ``n``.
CHANNEL_FACTORS = (1, 1, 2, 2, 4)


class OxideCNN(nn.Module):
    """1D-CNN from a reflectance spectrum to oxide abundances.

    Five blocks of convolution (kernel 3, stride 1, zero padding to the same length), batch normalisation and ReLU
    with ``[n, n, 2n, 2n, 4n]`` channels, then one fully connected layer on the flattened features. Standardisation
    of the input and the target belongs to the model: its statistics are buffers, so that reflectance goes in and
    wt% comes out.

    Parameters
    ----------
    n : int
        Channels of the first block. 32 is the optimum found in [1]_.
    bands : int
        Number of wavelengths of the input spectrum.
    outputs : int
        Number of oxides.

    References
    ----------
    .. [1] Bian et al. (2025), Oxide abundance inversion in the lunar polar regions using a 1D-CNN algorithm,
       doi:10.20944/preprints202511.1488.v1, section 2.4, figure 3 and table 1.

    Examples
    --------
    >>> import torch
    >>> import lunarray as la
    >>> network = la.oxides.OxideCNN(n=8)
    >>> network(torch.zeros(2, 150)).shape
    torch.Size([2, 6])
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, n: int = 32, bands: int = 150, outputs: int = 6) -> None:
        super().__init__()
        self.n, self.bands, self.outputs = n, bands, outputs
        blocks: list[nn.Module] = []
        channels = 1
        for factor in CHANNEL_FACTORS:
            blocks.append(
                nn.Sequential(
                    nn.Conv1d(channels, factor * n, kernel_size=3, stride=1, padding=1),
                    nn.BatchNorm1d(factor * n),
                    nn.ReLU(),
                )
            )
            channels = factor * n
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(channels * bands, outputs)
        self.register_buffer("input_mean", torch.zeros(bands))
        self.register_buffer("input_std", torch.ones(bands))
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_std", torch.ones(outputs))

    def set_standardisation(
        self, input_mean: Tensor, input_std: Tensor, target_mean: Tensor, target_std: Tensor
    ) -> None:
        """Store the per-band mean and standard deviation of the input and the per-oxide ones of the target."""
        with torch.no_grad():
            self.input_mean.copy_(input_mean)
            self.input_std.copy_(input_std)
            self.target_mean.copy_(target_mean)
            self.target_std.copy_(target_std)

    def forward_standardised(self, reflectance: Tensor) -> Tensor:
        """Abundances in units of the training set's standard deviations, which is what the training loss compares."""
        x = (reflectance - self.input_mean) / self.input_std
        return self.head(self.features(x.unsqueeze(1)).flatten(1))

    def forward(self, reflectance: Tensor) -> Tensor:
        """Invert spectra.

        Parameters
        ----------
        reflectance : Tensor, shape (pixel, bands), float32
            Bidirectional reflectance at 30°/0°/30°.

        Returns
        -------
        Tensor, shape (pixel, outputs), float32
            Oxide abundances in wt%.
        """
        return self.forward_standardised(reflectance) * self.target_std + self.target_mean


class LightCNN(nn.Module):
    """1D-CNN that knows how well it knows the light: shape, level and the light's uncertainty to oxides and errors.

    An :class:`OxideCNN` reads the shape of the spectrum, the spectrum over its own mean, and gives `hidden` values
    instead of oxides. Two small layers take these, how far the level is off the one that the first of the values
    foretells, as far as the light is known (:func:`lunarray.oxides.light.share_of_level`), and that share itself. At
    :data:`lunarray.oxides.light.UNKNOWN` the level has no part in the result.

    Parameters
    ----------
    n, bands, outputs : int
        As of :class:`OxideCNN`.
    hidden, units : int
        Values that the convolutions hand on, and width of the layers after them.
    """

    level: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, n: int = 32, bands: int = 150, outputs: int = 6, *, hidden: int = 16, units: int = 32
    ) -> None:
        super().__init__()
        self.n, self.bands, self.outputs = n, bands, outputs
        self.hidden, self.units = hidden, units
        self.trunk = OxideCNN(n, bands, hidden)
        self.first = nn.Linear(hidden + 1, units)
        self.second = nn.Linear(units, units)
        self.last = nn.Linear(units, 2 * outputs)
        self.skip = nn.Linear(hidden + 1, 2 * outputs, bias=False)
        self.register_buffer("level", torch.tensor([0.0, 1.0]))
        self.register_buffer("target_mean", torch.zeros(outputs))
        self.register_buffer("target_std", torch.ones(outputs))

    def set_standardisation(self, spectra: Tensor, targets: Tensor) -> None:
        """Take means and deviations of shapes, levels and oxides of training spectra without errors of light."""
        level = spectra.mean(dim=1)
        shapes = spectra / level[:, None]

        def spread(values: Tensor) -> Tensor:
            std = values.std(dim=0, correction=0)
            return torch.where(std > 0, std, torch.ones_like(std))

        with torch.no_grad():
            self.trunk.input_mean.copy_(shapes.mean(dim=0))
            self.trunk.input_std.copy_(spread(shapes))
            log = level.log()
            self.level.copy_(torch.stack([log.mean(), spread(log)]))
            self.target_mean.copy_(targets.mean(dim=0))
            self.target_std.copy_(spread(targets))

    def forward_standardised(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Oxides and the logarithms of their standard deviations, in units of the training's standard deviations."""
        spectra = pixels[:, : self.bands]
        lit = pixels.shape[1] > self.bands
        light = pixels[:, self.bands] if lit else torch.zeros_like(spectra[:, 0])
        mean = spectra.mean(dim=1)
        hidden = self.trunk.forward_standardised(spectra / mean[:, None])
        variance = LEVEL_SPREAD**2
        least = variance / (variance + UNKNOWN**2)
        share = ((variance / (variance + light**2) - least) / (1 - least)).clamp(min=0)
        off = share * ((mean.log() - self.level[0]) / self.level[1] - hidden[:, 0])
        x = torch.cat([off[:, None], hidden[:, 1:], share[:, None]], dim=1)
        units = torch.relu(self.second(torch.relu(self.first(x))))
        both = self.last(units) + self.skip(x)
        return both[:, : self.outputs], both[:, self.outputs :].clamp(*LOG_STD)

    def forward(self, pixels: Tensor) -> Tensor:
        """Invert spectra.

        Parameters
        ----------
        pixels : Tensor, shape (pixel, bands + 1), float32
            Reflectance at 30°/0°/30°, and the standard deviation of the logarithm of the light's gain; without the
            last column, light that is known.

        Returns
        -------
        Tensor, shape (pixel, outputs), float32
            Oxide abundances in wt%.
        """
        return self.forward_standardised(pixels)[0] * self.target_std + self.target_mean
