"""The 1D convolutional network that reads oxide abundances off a reflectance spectrum."""

from __future__ import annotations

from lunarray.errors import needs

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
