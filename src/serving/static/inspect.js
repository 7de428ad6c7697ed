// The inspectors' page: photos in, predictions back, decisions kept. Plain modules, nothing from elsewhere.
const $ = (id) => document.getElementById(id);
const labels = JSON.parse($("labels").textContent);
const several = $("labels").dataset.several === "true";
const PAGE = 48, AT_ONCE = 2;
let photos = [], current = null, before = ""; // the list; the open photo, and its labels as it was opened
let pages = [0], asked = 0, answered = 0; // the last photo before each page up to this one; loads of the list
let sending = false, heat = "";
const drafts = new Map(); // comments that are not sent, by photo

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function call(path, options, turn = 0) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.assign("/login");
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  const wait = Number(answer.headers.get("Retry-After")), where = $("detail").open ? "told" : "status";
  if (!wait || turn > 20) throw Object.assign(new Error(problem.detail), { code: problem.code });
  say(`${problem.detail}: trying again`, true, where);
  await pause(wait);
  const later = await call(path, options, turn + 1);
  say("", false, where);
  return later;
}
const json = async (path, options) => (await call(path, options)).json();

function say(text, wrong = false, where = "status") {
  $(where).textContent = text;
  $(where).classList.toggle("wrong", wrong);
}

const waits = (photo) => ["PENDING", "STARTED"].includes(photo.status);
const shown = (photo) => {
  const found = photo.review ? photo.review.labels : photo.labels;
  if (found) return Object.values(found).flat().join(", ") || "nothing found";
  return waits(photo) ? "waiting…" : photo.status ? "prediction failed" : "not predicted";
};

function query() {
  const form = new FormData($("filter"));
  const given = ["reviewed", "label", "order", "text"].map((name) => [name, form.get(name)]);
  return new URLSearchParams([["limit", PAGE], ...[["after", pages.at(-1)], ...given].filter(([, value]) => value)]);
}

async function load() {
  const turn = ++asked;
  const page = await json(`/api/images?${query()}`).catch((error) => ({ error }));
  if (turn !== asked) return; // a later question has been asked
  answered = turn;
  if (page.error) return say(page.error.message, true);
  if (!page.data.length && pages.length > 1) return pages.pop(), load();
  photos = page.data;
  $("photos").replaceChildren(...photos.map(card));
  $("empty").hidden = photos.length > 0;
  $("pages").hidden = page.total <= PAGE && pages.length === 1;
  $("place").textContent = `page ${pages.length}, ${page.total.toLocaleString()} photos`;
  $("back").disabled = pages.length === 1;
  $("next").disabled = photos.length < PAGE;
}

function asks(photo) { // what the model is too unsure of to decide
  const names = Object.entries(photo.look_at ?? {}).map(([name, p]) => `${name} ${p.toFixed(2)}`);
  return names.length && !photo.review ? `Look at: ${names.join(", ")}` : "";
}

function card(photo) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "photo" + (photo.review ? " decided" : "");
  button.dataset.id = photo.id;
  const image = document.createElement("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = `/api/images/${photo.id}/file?thumbnail=true`;
  const line = (css, text) => Object.assign(document.createElement("span"), { className: css, textContent: text });
  const sure = photo.confidence == null ? "" : `${Math.round(100 * photo.confidence)} %`;
  button.append(image, line("name", photo.filename), line("said", shown(photo)), line("sure", asks(photo) || sure));
  button.addEventListener("click", () => look(photos.find((other) => other.id === photo.id)));
  return button;
}

function put(photo) {
  const index = photos.findIndex((other) => other.id === photo.id);
  if (index >= 0) $("photos").children[index].replaceWith(card(photo));
  if (index >= 0) photos[index] = photo;
  if (current.id === photo.id) current = photo;
}

const near = (steps) => photos[photos.findIndex((photo) => photo.id === current.id) + steps];

function look(photo) {
  if (!photo) return;
  current = photo;
  heat = "";
  $("title").textContent = photo.filename || photo.sha256.slice(0, 12);
  $("large").src = `/api/images/${photo.id}/file`;
  $("large").alt = `${photo.filename}: ${shown(photo)}`;
  $("comment").value = drafts.get(photo.id) ?? photo.review?.comment ?? "";
  const size = `${photo.width} × ${photo.height} px`;
  const model = photo.model_id ? `predicted by model ${photo.model_id}` : "";
  const by = photo.review ? `, ${photo.review.decision} by ${photo.review.reviewer || "somebody"}` : "";
  $("ask").textContent = asks(photo);
  $("facts").textContent = `${size}, ${photo.labels ? "" : shown(photo)}${model}${by}`;
  const found = photo.review?.labels ?? photo.labels ?? {};
  $("choice").replaceChildren(...Object.entries(labels).map(([kind, names]) => choices(kind, names, found, photo)));
  before = JSON.stringify(chosen());
  const others = Object.entries(found).flatMap(([kind, names]) => names.filter((name) => !labels[kind]?.includes(name)));
  $("older").textContent = others.length ? `${photo.review ? "Decided" : "Predicted"} as ${others.join(", ")}: this model does not know that.` : "";
  const order = Object.keys(photo.predictions ?? {});
  $("heat-label").replaceChildren(...order.map((name) => new Option(name)));
  $("again").hidden = waits(photo);
  arm();
  say("", false, "told");
  if (!$("detail").open) $("detail").showModal();
}

const chosen = () => Object.fromEntries(Object.keys(labels).map((kind) => [
  kind, [...$("choice").querySelectorAll("input:checked")].filter((i) => i.name === kind).map((i) => i.value),
]));
const changed = () => JSON.stringify(chosen()) !== before;

function arm() { // Enter saves what is shown: the prediction, or a choice
  $("confirm").disabled = !changed() && (!current.labels || current.review?.decision === "corrected");
  $("confirm").firstChild.textContent = changed() ? "Save correction " : "Confirm ";
}

function choices(kind, names, found, photo) {
  const set = document.createElement("fieldset");
  set.append(Object.assign(document.createElement("legend"), { textContent: kind }));
  for (const name of names) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), {
      type: several ? "checkbox" : "radio", name: kind, value: name, checked: (found[kind] ?? []).includes(name),
    });
    const score = photo.predictions?.[name];
    label.append(input, ` ${name} `);
    if (score != null) label.append(Object.assign(document.createElement("meter"), {
      value: score, title: `${(100 * score).toFixed(1)} %`,
    }));
    set.append(label);
  }
  return set;
}

async function decide(decision) {
  const photo = current;
  if (sending) return;
  if (changed()) decision = "correct";
  else if (decision === "correct" && $("older").textContent) return say("Choose labels first.", true, "told");
  const body = { decision, comment: $("comment").value, labels: decision === "correct" ? chosen() : photo.labels };
  body.reviewer = new FormData($("filter")).get("reviewer");
  const headers = { "Content-Type": "application/json" };
  sending = true;
  try {
    put((await json(`/api/images/${photo.id}`, { method: "PATCH", headers, body: JSON.stringify(body) })).data);
    drafts.delete(photo.id);
    if (current.id !== photo.id) return;
    if (near(1)) look(near(1));
    else say("The last photo of this page.", false, "told");
  } catch (error) {
    if (error.code === "prediction_changed") {
      await refresh(photo);
      error.message = "A newer model has predicted this photo: look again.";
    }
    say(current.id === photo.id ? error.message : `${photo.filename}: ${error.message}`, true, "told");
  } finally {
    sending = false;
  }
}

async function refresh(photo) {
  const found = (await json(`/api/images/${photo.id}`)).data;
  put(found);
  if (current.id === photo.id && !waits(found) && !changed()) look(found);
  return found;
}

async function showHeat() {
  const photo = current;
  if (heat) {
    heat = "";
    $("large").src = `/api/images/${photo.id}/file`;
    return;
  }
  say("Heat map…", false, "told");
  try {
    const content = await (await call(`/api/images/${photo.id}/file`)).blob();
    const form = new FormData();
    form.append("file", content, photo.filename || "photo");
    if ($("heat-label").value) form.append("label", $("heat-label").value);
    const answer = await call("/explain", { method: "POST", body: form });
    const picture = await answer.blob();
    if (current.id !== photo.id) return;
    heat = URL.createObjectURL(picture);
    $("large").src = heat;
    say(answer.headers.get("X-Heat-Map") === "none" ? "No area speaks for this label." : "", false, "told");
  } catch (error) {
    if (current.id === photo.id) say(error.message, true, "told");
  }
}

async function predict(photo) {
  say("Predicting…", false, "told");
  try {
    await call(`/api/predict?id=${photo.id}`, { method: "POST" });
    while (waits(await refresh(photo))) await pause(0.5);
    say("", false, "told");
  } catch (error) {
    say(error.message, true, "told");
  }
}

async function remove(photo) {
  if (!confirm("Delete this photo with its predictions and decisions?")) return;
  try {
    await call(`/api/images/${photo.id}`, { method: "DELETE" });
    $("detail").close();
    await load();
  } catch (error) {
    say(error.message, true, "told");
  }
}

function start() { // of the list
  pages = [0];
  return load();
}

async function add(files) {
  const waiting = [...files], faults = [], many = waiting.length > 1; // one photo is waited for: it comes first
  let done = 0;
  async function worker() {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      try {
        const form = new FormData();
        form.append("file", file, file.name);
        const photo = await json("/api/upload", { method: "POST", body: form });
        await call(`/api/predict?id=${photo.id}&batch=${many}`, { method: "POST" });
        done += 1;
      } catch (error) {
        faults.push(`${file.name}: ${error.message}`);
      }
      say(`${done} of ${files.length} photos taken` + (faults.length ? `; not taken: ${faults.join("; ")}` : ""), faults.length > 0);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  await start();
}

$("files").addEventListener("change", (event) => add([...event.target.files]).finally(() => (event.target.value = "")));
document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) add(event.dataTransfer.files);
});
$("filter").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", (event) => {
  if (event.target.name === "reviewer") return localStorage.setItem("reviewer", event.target.value);
  start();
});
$("back").addEventListener("click", () => { pages.pop(); load(); });
$("next").addEventListener("click", () => { pages.push(photos.at(-1).id); load(); });
$("confirm").addEventListener("click", () => decide("confirm"));
$("correct").addEventListener("click", () => decide("correct"));
$("previous").addEventListener("click", () => look(near(-1)));
$("following").addEventListener("click", () => look(near(1)));
$("heat").addEventListener("click", showHeat);
$("again").addEventListener("click", () => predict(current));
$("remove").addEventListener("click", () => remove(current));
$("choice").addEventListener("change", arm);
$("comment").addEventListener("input", () => drafts.set(current.id, $("comment").value));
$("heat-label").addEventListener("change", () => { heat = ""; showHeat(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea");
  if (!$("detail").open || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const acts = { j: () => look(near(1)), k: () => look(near(-1)), h: showHeat, s: () => decide("correct") };
  const act = event.key === "Enter" ? () => $("confirm").click() : acts[event.key];
  if (!act || (event.key === "Enter" && !event.repeat && event.target.matches("button"))) return;
  if (!event.repeat) act();
  event.preventDefault();
});
$("filter").elements.reviewer.value = localStorage.getItem("reviewer") ?? "";
json("/health").then((health) => ($("model").textContent = `model ${health.model_version}`));
setInterval(() => asked === answered && !$("detail").open && photos.some(waits) && load(), 1000);
start();
