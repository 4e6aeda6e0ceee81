"""Model descriptions: shipped `config.json` files by hub id, and the folders an engine loads a model from."""
