"""What transformers have in common where text attends too: FLUX, Stable Diffusion 3, Qwen-Image."""
