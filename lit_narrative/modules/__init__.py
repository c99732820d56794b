"""An algorithm each: one LightningModule a file."""
