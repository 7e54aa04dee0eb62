// The form's settings: in the URL fragment, so that a link restores them, and in requests.

const FIELDS = ["model", "prompt", "temperature", "top_k", "top_p", "min_p", "seed", "length", "streams", "colour", "unit"];

const field = (name) => document.getElementById(name);

/** All settings in the form, as strings. */
export function settings() {
  return Object.fromEntries(FIELDS.map((name) => [name, field(name).value]));
}

/** The URL of this page with some settings; empty ones are omitted. */
export function linkTo(values) {
  const filled = FIELDS.filter((name) => values[name] !== "" && values[name] !== undefined);
  const fragment = new URLSearchParams(filled.map((name) => [name, values[name]]));
  return `${location.href.split("#")[0]}#${fragment}`;
}

/** Keep the form's settings in the URL. */
export function remember() {
  history.replaceState(null, "", linkTo(settings()));
}

/** Fill the form from the URL; settings that it lacks are unchanged. */
export function restore() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of FIELDS) {
    const value = given.get(name);
    if (value === null) continue;
    const element = field(name);
    if (element.tagName === "SELECT" && ![...element.options].some((option) => option.value === value)) continue;
    element.value = value;
  }
}

/** The model in the URL, or ""; available before the list of models. */
export function wantedModel() {
  return new URLSearchParams(location.hash.slice(1)).get("model") ?? "";
}

/** The sampling settings of a request; empty fields are left to the server. */
export function sampling(values) {
  const request = { temperature: Number(values.temperature) };
  for (const name of ["top_k", "top_p", "min_p"]) {
    if (values[name] !== "") request[name] = Number(values[name]);
  }
  if (values.temperature === "") delete request.temperature;
  return request;
}
