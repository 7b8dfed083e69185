"""Networks: Flax linen modules only. No loss, no config, no optimizer lives here."""
