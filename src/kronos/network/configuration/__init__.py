"""The host's own network configuration: its management address moved onto a bridge, and back, by the distribution's
own tool. `plan` and the tools' modules decide on texts alone; `hands` and `transaction` touch the machine."""
