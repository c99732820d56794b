"""A task each, as data: one LightningDataModule a file."""
