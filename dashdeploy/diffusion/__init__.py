"""The diffusion process: noise schedule, guidance, the denoiser contract and the DDIM sampler."""
