"""Language models and tokenizers: found, loaded, run forward."""
