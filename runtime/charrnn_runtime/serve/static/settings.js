// The form's settings: in the address's fragment, so that a link restores them, and in requests.

const FIELDS = ["model", "prompt", "temperature", "top_k", "top_p", "min_p", "seed", "length", "streams", "colour", "unit"];

const field = (name) => document.getElementById(name);

/** All settings as they stand in the form, as strings. */
export function settings() {
  return Object.fromEntries(FIELDS.map((name) => [name, field(name).value]));
}

/** The address of this page with some settings; those that are empty are left out. */
export function linkTo(values) {
  const filled = FIELDS.filter((name) => values[name] !== "" && values[name] !== undefined);
  const fragment = new URLSearchParams(filled.map((name) => [name, values[name]]));
  return `${location.href.split("#")[0]}#${fragment}`;
}

/** Keep the form's settings in the address. */
export function remember() {
  history.replaceState(null, "", linkTo(settings()));
}

/** Fill the form from the address; what it does not name stays as it is. */
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

/** The model that the address names, or "": before the list of models has come. */
export function wantedModel() {
  return new URLSearchParams(location.hash.slice(1)).get("model") ?? "";
}

/** The part of a request that says how characters are chosen; fields that are empty are left to the server. */
export function sampling(values) {
  const request = { temperature: Number(values.temperature) };
  for (const name of ["top_k", "top_p", "min_p"]) {
    if (values[name] !== "") request[name] = Number(values[name]);
  }
  if (values.temperature === "") delete request.temperature;
  return request;
}
