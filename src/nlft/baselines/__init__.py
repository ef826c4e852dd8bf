"""The methods that NLFT is compared with: SFT, KTO, DPO, ReFT."""
