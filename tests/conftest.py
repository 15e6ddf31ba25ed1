"""What all tests share."""

import hypothesis

# A property that holds is not refuted by a busy machine: speed is the business of benchmarks/.
hypothesis.settings.register_profile("tale", deadline=None, print_blob=True)
hypothesis.settings.register_profile("thorough", hypothesis.settings.get_profile("tale"), max_examples=2_000)
hypothesis.settings.load_profile("tale")
