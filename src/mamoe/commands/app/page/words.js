// The JSON beside a map: prompts and numbers, as the record beside a picture of `mamoe sample` has them.

const NUMBERS = ["seed", "steps", "guidance_scale"];

export function wordsOf(state) {
  return {
    taxonomy: state.taxonomy,
    prompt: state.prompt,
    instance_prompts: Object.fromEntries([...state.prompts].sort(([a], [b]) => a - b)),
    seed: state.seed,
    steps: state.steps,
    guidance_scale: state.guidance_scale,
  };
}

// What a JSON file says; throws an Error in plain words where it is no such file.
export function readWords(text, name) {
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    throw new Error(`${name} is no JSON.`);
  }
  const wrong = (what) => {
    throw new Error(`${name}: ${what}. Wanted is what “Save prompts” writes.`);
  };
  if (typeof said !== "object" || said === null || Array.isArray(said)) wrong("it holds no prompts");
  if (!("prompt" in said) && !("instance_prompts" in said)) wrong("there is neither prompt nor instance_prompts in it");
  const { prompt = "", instance_prompts: bySegment = {} } = said;
  if (typeof prompt !== "string") wrong("prompt is no text");
  if (typeof bySegment !== "object" || bySegment === null) wrong("instance_prompts is no table");
  const prompts = new Map();
  for (const [segment, words] of Object.entries(bySegment)) {
    if (!/^\d+$/.test(segment)) wrong(`${JSON.stringify(segment.slice(0, 40))} is no number of a segment`);
    if (typeof words !== "string") wrong(`the prompt of segment ${segment} is no text`);
    prompts.set(Number(segment), words);
  }
  const numbers = {};
  for (const key of NUMBERS) {
    if (!(key in said)) continue;
    if (typeof said[key] !== "number") wrong(`${key} is no number`);
    numbers[key] = said[key];
  }
  return { prompt, prompts, ...numbers };
}
