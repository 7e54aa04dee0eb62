"""Builds the step graph from weights: the ONNX graph of one character, node by node.

The graph is small and fixed, so it is built explicitly rather than traced: torch.onnx unrolls nn.RNN, and
leaves shape computations in nn.LSTM's graph, which onnxruntime then runs on the CPU.
"""
