"""What pictures can lose: noise, blur, compression, colour, age. The task `degrade`, autoencoders and evaluators spoil by it."""
