"""SAEBench's automated interpretation of latents: which windows does an explanation fit?"""
