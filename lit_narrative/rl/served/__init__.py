"""Rollouts by an inference server, vLLM or SGLang, that gets the policy's weights as they change."""
