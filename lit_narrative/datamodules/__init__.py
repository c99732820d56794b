"""Tasks as LightningDataModules, one a file, with their base and the settings that they share."""
