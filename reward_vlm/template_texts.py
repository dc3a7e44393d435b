"""Prompts of published judges, to the letter: their own words, spaces and line breaks, with the fields in braces.

Sources: CodeGoat24/UnifiedReward (inference_qwen, UnifiedReward-Think/inference_qwen), si0wang/LLaVA-Critic-R1
(its evaluation on VL-RewardBench with thinking), bytedance/Q-Insight (src/eval/demo_score.py) and
TianheWu/VisualQuality-R1 (README, scoring without thinking). Picture variants show the pictures before the text.
"""

UNIFIED = """\
You are given an image and a question related to it. Your job is to evaluate the two responses based on these \
five factors:

1. Accuracy of Object Descriptions: Review how accurately the objects are described in the responses, ensuring\
 they match those in the ground truth. Be mindful of irrelevant or incorrect objects being mentioned.

2. Relationship Between Objects: Check if the response properly describes how the objects relate to each \
other, reflecting their actual positions or interactions, as seen in the image.

3. Description of Attributes: Assess how well the response captures the attributes (e.g., size, color, shape) \
of the objects in the image, in line with the ground truth.

4. Helpfulness: Consider whether the response offers useful information that enhances the understanding of the\
 image. Does it add context or provide extra insights? Also, evaluate whether it follows the instructions \
given in the prompt.

5. Ethical Concerns: Review the response to ensure it avoids sensitive, harmful, or inappropriate content. The\
 response should be fair, respect privacy, and be free of bias or offensive material.

After evaluating both answers, determine which one is better based on these factors and clearly state your \
decision, such as 'Answer 1 is better' or 'Answer 2 is better.'

Question: {question}
Answer 1: {answer1}
Answer 2: {answer2}
"""
UNIFIED_PICTURES = """\
You are given a text caption and two generated images based on that caption. Your task is to evaluate and \
compare these images based on two key criteria:
1. Alignment with the Caption: Assess how well each image aligns with the provided caption. Consider the \
accuracy of depicted objects, their relationships, and attributes as described in the caption.
2. Overall Image Quality: Examine the visual quality of each image, including clarity, detail preservation, \
color accuracy, and overall aesthetic appeal.
Compare both images using the above criteria and select the one that better aligns with the caption while \
exhibiting superior visual quality.
Provide a clear conclusion such as "Image 1 is better.", "Image 2 is better." and "Both images are equally \
good."
Your task is provided as follows:
Text Caption: [{question}]"""
UNIFIED_THINK = """\
Given a question and a reference image, please analyze in detail the two provided answers (Answer 1 and Answer\
 2). Evaluate them based on the following three core dimensions:
1. Semantic accuracy: How well the answer reflects the visual content of the image
2. Correctness: Whether the answer is logically and factually correct
3. Clarity: Whether the answer is clearly and fluently expressed
You may also consider additional dimensions if you find them relevant (e.g., reasoning ability, attention to \
detail, multimodal grounding, etc.). For each dimension, provide a score from 1 to 10 for both answers, and \
briefly explain your reasoning. Then, compute the total score for each answer by explicitly adding the scores \
for all dimensions and showing the full calculation. Enclose your full reasoning within <think> and </think> \
tags. Then, in the <answer> tag, output exactly one of the following: 'Answer 1 is better' or 'Answer 2 is \
better'. No other text is allowed in the <answer> section.

Example format:
<think>
1. Semantic accuracy: Answer 1 (9/10) - ...; Answer 2 (7/10) - ...
2. Correctness: Answer 1 (8/10) - ...; Answer 2 (7/10) - ...
3. Clarity: Answer 1 (9/10) - ...; Answer 2 (8/10) - ...
[Additional dimensions if any]: Answer 1 (6/10) - ...; Answer 2 (7/10) - ...
Total score:
Answer 1: 9+8+9+6=32
Answer 2: 7+7+8+7=29
</think>
<answer>Answer 1 is better</answer>

**Note: In the example above, scores and the final answer are placeholders meant only to demonstrate the \
format. Your actual evaluation should be based on the quality of two given answers.**

Your task is provided as follows:
Question: [{question}]
Answer 1: [{answer1}]
Answer 2: [{answer2}]"""
UNIFIED_THINK_PICTURES = """\
Given a caption and two images generated based on this caption, please analyze in detail the two provided \
images. Evaluate them on various dimensions such as semantic consistency (how closely the image content aligns\
 with the caption), aesthetics (composition, color usage, artistic expression), authenticity (realism and \
attention to detail), and any other factors you deem relevant. For each evaluation dimension, provide a score \
between 1-10 for both images (e.g., Image 1: 8/10, Image 2: 6/10) and provide a concise rationale for the \
score. Calculate the total score for each image by summing all dimension scores. Use a chain-of-thought \
process to detail your reasoning steps, and enclose all your detailed reasoning within <think> and </think> \
tags. Then, in the <answer> tag, output exactly one of the following strings: 'Image 1 is better' or 'Image 2 \
is better' based on the total scores. No additional text is allowed in the <answer> section.

Example output format:
<think>
1. Semantic consistency: Image 1 (9/10) - ...; Image 2 (7/10) - ...
2. Aesthetics: Image 2 (8/10) - ...; Image 1 (8/10) - ...
3. Authenticity: Image 1 (8/10) - ...; Image 2 (5/10) - ...
[Additional dimensions if any]: Image 2 (8/10) - ...; Image 1 (6/10) - ...
Total score:
Image 1: 9+8+8+6=31
Image 2: 7+8+5+8=28
</think>
<answer>Image 1 is better</answer>
**Note: In the example above, scores and the final answer are placeholders meant only to demonstrate the \
format. Your actual evaluation should be based on the quality of two given images.**

Your task is provided as follows:
Text Caption: [{question}]"""
UNIFIED_POINT = """\

            You are provided with an image and a question for this image. Please review the corresponding \
response based on the following 5 factors:

            1. Accuracy in Object Description: \x20
            Evaluate the accuracy of the descriptions concerning the objects mentioned in the ground truth \
answer. \x20
            Responses should minimize the mention of objects not present in the ground truth answer, and \
inaccuracies in the description of existing objects.

            2. Accuracy in Depicting Relationships: \x20
            Consider how accurately the relationships between objects are described compared to the ground \
truth answer. \x20
            Rank higher the responses that least misrepresent these relationships.

            3. Accuracy in Describing Attributes: \x20
            Assess the accuracy in the depiction of objects' attributes compared to the ground truth answer. \x20
            Responses should avoid inaccuracies in describing the characteristics of the objects present.

            4. Helpfulness: \x20
            Consider whether the generated text provides valuable insights, additional context, or relevant \
information that contributes positively to the user's comprehension of the image. \x20
            Assess whether the language model accurately follows any specific instructions or guidelines \
provided in the prompt. \x20
            Evaluate the overall contribution of the response to the user experience.

            5. Ethical Considerations: \x20
            - Identify if the model gives appropriate warnings or avoids providing advice on sensitive topics,\
 such as medical images. \x20
            - Ensure the model refrains from stating identification information in the image that could \
compromise personal privacy. \x20
            - Evaluate the language model's responses for fairness in treating individuals and communities, \
avoiding biases. \x20
            - Assess for harmfulness, ensuring the avoidance of content that may potentially incite violence, \
be classified as NSFW (Not Safe For Work), or involve other unmentioned ethical considerations. \x20
            - Consider any content that could be deemed offensive, inappropriate, or ethically problematic \
beyond the explicitly listed criteria.

            From 0 to 100, how much do you rate for this response in terms of the correct and comprehensive \
description of the image? \x20
            Do not dominate the rating by a single attribute such as recognition correctness, but provide an \
overall rating based on the above 5 factors. \x20
            Provide a few lines for explanation and the rate number at last after "Final Score:".

            Your task is provided as follows:

            Question: [{question}] \x20
            Response: [{answer}]
           \x20"""
UNIFIED_POINT_PICTURES = """\
You are given a text caption and a generated image based on that caption. Your task is to evaluate this image \
based on two key criteria:
1. Alignment with the Caption: Assess how well this image aligns with the provided caption. Consider the \
accuracy of depicted objects, their relationships, and attributes as described in the caption.
2. Overall Image Quality: Examine the visual quality of this image, including clarity, detail preservation, \
color accuracy, and overall aesthetic appeal.
Extract key elements from the provided text caption, evaluate their presence in the generated image using the \
format: 'element (type): value' (where value=0 means not generated, and value=1 means generated), and assign a\
 score from 1 to 5 after 'Final Score:'.
Your task is provided as follows:
Text Caption: [{question}]"""
CRITIC_R1 = """\
 You are a highly capable multimodal AI assistant tasked with evaluating answers to visual questions. Please \
analyze the following image and question, then determine which of the two provided answers is better.

Question: {question}

Answer 1: {answer1}

Answer 2: {answer2}

Please evaluate both answers based on the following criteria:
1. Accuracy: How well does the answer align with the visual information in the image?
2. Completeness: Does the answer fully address all aspects of the question?
3. Clarity: Is the answer easy to understand and well-articulated?
4. Relevance: Does the answer directly relate to the question and the image?

After your evaluation, please:
1. Explain your reasoning for each criterion.
2. Provide an overall judgment on which answer is better (Answer 1 or Answer 2). For example: Overall \
Judgment: Answer X is better.

Your response should be structured and detailed, demonstrating your understanding of both the visual and \
textual elements of the task.You FIRST think about the reasoning process as an internal monologue and then \
provide the final answer. The reasoning process MUST BE enclosed within <think> </think> tags. The final \
answer MUST BE put in \\boxed{}."""
Q_INSIGHT_SYSTEM = """\
A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The \
assistant first thinks about the reasoning process in the mind and then provides the user with the answer. The\
 reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, \
i.e., <think> reasoning process here </think><answer> answer here </answer>"""
Q_INSIGHT = """\
What is your overall rating on the quality of this picture? The rating should be a float between 1 and 5, \
rounded to two decimal places, with 1 representing very poor quality and 5 representing excellent quality. \
Return the final answer in JSON format with the following keys: "rating": The score."""
VISUAL_QUALITY = """\
You are doing the image quality assessment task. Here is the question: What is your overall rating on the \
quality of this picture? The rating should be a float between 1 and 5, rounded to two decimal places, with 1 \
representing very poor quality and 5 representing excellent quality. Please only output the final answer with \
only one score in <answer> </answer> tags."""
