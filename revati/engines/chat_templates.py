"""Chat templates (Jinja) per model family, with the family's own turn markers.

They cost about as many tokens a turn as the real ones. That of Qwen3 also knows tools and thinking, so that
parsing and rendering it costs the host about what the real one does; the others are short forms.
"""

from __future__ import annotations

_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN3 = """\
{%- set turns = namespace(system='', asked=messages|length - 1, seeking=true) %}
{%- if messages and messages[0].role == 'system' %}
    {%- set turns.system = messages[0].content %}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\n' + (turns.system + '\n\n' if turns.system else '') }}
    {{- '# Tools\n\nThese functions may be called; their signatures stand between tools tags:\n<tools>' }}
    {%- for signature in tools %}
        {{- '\n' + (signature | tojson) }}
    {%- endfor %}
    {{- '\n</tools>\n\nA call is one JSON object between tool_call tags:\n<tool_call>\n' }}
    {{- '{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n' }}
{%- elif turns.system %}
    {{- '<|im_start|>system\n' + turns.system + '<|im_end|>\n' }}
{%- endif %}
{%- for turn in messages | reverse %}
    {%- set place = messages|length - 1 - loop.index0 %}
    {%- if turns.seeking and turn.role == 'user' and turn.content is string %}
        {%- set text = turn.content %}
        {%- if not (text.startswith('<tool_response>') and text.endswith('</tool_response>')) %}
            {%- set turns.seeking = false %}
            {%- set turns.asked = place %}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- for turn in messages %}
    {%- if turn.content is string %}
        {%- set text = turn.content %}
    {%- else %}
        {%- set text = '' %}
    {%- endif %}
    {%- if turn.role == 'user' or (turn.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + turn.role + '\n' + text + '<|im_end|>\n' }}
    {%- elif turn.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if turn.reasoning_content is string %}
            {%- set thought = turn.reasoning_content %}
        {%- elif '</think>' in text %}
            {%- set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set text = text.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > turns.asked and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') }}
        {%- else %}
            {{- text }}
        {%- endif %}
        {%- for call in turn.tool_calls or [] %}
            {%- if text or not loop.first %}
                {{- '\n' }}
            {%- endif %}
            {%- if call.function %}
                {%- set call = call.function %}
            {%- endif %}
            {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {%- if call.arguments is string %}
                {{- call.arguments }}
            {%- else %}
                {{- call.arguments | tojson }}
            {%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif turn.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + text + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
_MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST]{{ m['content'] }}[/INST]{% endif %}{% endfor %}"
)
_DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<｜Assistant｜>{{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
_HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

CHAT_TEMPLATES = {
    "llama3": _LLAMA3,
    "qwen": _QWEN3,
    "mistral": _MISTRAL,
    "deepseek": _DEEPSEEK,
    "gpt_oss": _HARMONY,
    "generic": _CHATML.replace("<|im_start|>", "").replace("<|im_end|>", ""),
}
