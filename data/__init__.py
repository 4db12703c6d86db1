"""Images: their order, their plan, their stores, and the engines that load them."""
