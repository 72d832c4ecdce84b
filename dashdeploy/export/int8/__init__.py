"""int8 by static Q/DQ: calibration, the layers that stay in float, both quantizers."""
