"""The core: what every family is made of. Spec, conditions, nets, methods, the state of a run, devices."""
