"""What all tests share."""

import hypothesis

# A property that holds is not refuted by a busy machine: speed is the business of benchmarks/.
hypothesis.settings.register_profile("tale", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tale")
