"""One thread for every test: two threads on a loaded machine are several times slower."""

import torch

torch.set_num_threads(1)
