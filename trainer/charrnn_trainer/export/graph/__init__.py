"""Weights to step graph: the ONNX graph of one character, built node by node.

The graph is small and known, so it is written down here rather than traced: torch.onnx unrolls nn.RNN and
leaves shape computations in nn.LSTM's graph, which onnxruntime then runs on the CPU.
"""
