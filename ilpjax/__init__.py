"""Which rows of a fine-tuning file did the model not learn, why, and what cures each?"""
