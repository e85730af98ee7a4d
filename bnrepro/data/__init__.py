"""Data sets as arrays, the samplers that draw from them, and sources of minibatches."""
