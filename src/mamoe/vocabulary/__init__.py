"""What crosses the borders between rooms: frozen objects with checked invariants, never dictionaries.

Letters used in every signature of the package: B images · R regions of an image · E experts · S text tokens ·
D text width · H, W pixels · h, w latent cells · N = h*w cells of one UNet level · L levels · C channels ·
K entries of a layout table.
"""
