"""Specs of every kind that use every field, as VoidBox's users write them."""

from __future__ import annotations

WORKFLOW = """\
# The rows of a directory, counted in one machine.
api_version: v1
kind: workflow
name: count-files

sandbox:
  mode: auto
  memory_mb: 256
  vcpus: 1
  network: false
  env: {LC_ALL: C, HOME_OF: ""}

workflow:
  steps:
    - name: gather
      run: {program: ls, args: [-la, /workspace]}
    - name: count
      depends_on: [gather]
      run:
        program: wc
        args: ["-l"]
        stdin_from: gather
      timeout_secs: 30
    - name: watch
      mode: service
      run: {program: tail, args: [-f, /dev/null]}
  output_step: count
"""

AGENT = """\
kind: agent
name: reviewer
sandbox:
  mode: local
  kernel: /boot/vmlinuz
  initramfs: /boot/initramfs.cpio.gz
  image: python:3.12-slim
  guest_image: ""
  snapshot: 0123456789abcdef
  mounts:
    - {host: ./src, guest: /workspace/src}
    - {host: ./out, guest: /workspace/out, mode: rw}
llm:
  provider: custom
  model: some-model
  base_url: http://127.0.0.1:4000
  api_key_env: SOME_KEY
  credential_proxy: false
observe: {traces: true, metrics: true, logs: false, otlp_endpoint: "http://127.0.0.1:4318", service_name: reviews,
          telemetry_buffer_size: 5000}
agent:
  prompt: |
    Review the code in /workspace/src.
  skills:
    - agent:claude-code
    - file:./skills/review.md
    - remote:owner/skills/review
    - cli:jq
    - mcp:search
    - {image: "tools:1", mount: /opt/tools, readonly: true}
    - {command: my-server, args: [--stdio], env: {MODE: quiet}}
    - {name: style, content: Write short sentences.}
  timeout_secs: 600
  output_file: /workspace/review.json
  messaging: {enabled: true, provider_bridge: claude}
  mode: task
"""

PIPELINE = """\
kind: pipeline
name: reports
llm: {provider: claude}
pipeline:
  boxes:
    - name: plan
      prompt: Write a plan.
      outputs: [{name: plan, guest: /workspace/output}]
    - name: left
      prompt: Do the left half.
      skills: [file:left.md]
      llm: {provider: codex}
      timeout_secs: 60
      sandbox: {memory_mb: 512, vcpus: 2, network: true, env: {A: b}, mounts: [], snapshot: base}
      inputs: [{from: plan, guest: /workspace/input}]
    - name: right
      prompt: Do the right half.
  stages:
    - {type: box, name: plan}
    - {type: fan_out, boxes: [left, right]}
"""

SANDBOX = '{"api_version": "v1", "kind": "sandbox", "name": "place", "sandbox": {"memory_mb": 512}}'

YAMLS = {"workflow": WORKFLOW, "agent": AGENT, "pipeline": PIPELINE}
