// The inspectors' page: photos in, predictions back, decisions kept. Plain modules, nothing from elsewhere.
const $ = (id) => document.getElementById(id);
const labels = JSON.parse($("labels").textContent);
const several = $("labels").dataset.several === "true";
const PAGE = 48, AT_ONCE = 2;
let photos = [], total = 0, offset = 0, open = -1, heat = "";

async function call(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.assign("/login");
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  const error = new Error(problem.detail);
  error.wait = Number(answer.headers.get("Retry-After"));
  error.code = problem.code;
  throw error;
}
const json = async (path, options) => (await call(path, options)).json();

function say(text, wrong = false, where = "status") {
  $(where).textContent = text;
  $(where).classList.toggle("wrong", wrong);
}

const shown = (photo) => {
  const found = photo.review ? photo.review.labels : photo.labels;
  if (!found) return "waiting…";
  return Object.values(found).flat().join(", ") || "nothing found";
};

function query() {
  const form = new FormData($("filter"));
  const given = ["reviewed", "label", "order", "text"].map((name) => [name, form.get(name)]);
  return new URLSearchParams([["offset", offset], ["limit", PAGE], ...given.filter(([, value]) => value)]);
}

async function load() {
  try {
    const page = await json(`/api/images?${query()}`);
    [photos, total] = [page.data, page.total];
  } catch (error) {
    return say(error.message, true);
  }
  $("photos").replaceChildren(...photos.map(card));
  $("empty").hidden = total > 0;
  $("pages").hidden = total <= PAGE;
  $("place").textContent = `${offset + 1} to ${offset + photos.length} of ${total.toLocaleString()}`;
  $("back").disabled = offset === 0;
  $("next").disabled = offset + PAGE >= total;
}

function card(photo, index) {
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
  button.append(image, line("name", photo.filename), line("said", shown(photo)), line("sure", sure));
  button.addEventListener("click", () => look(index));
  return button;
}

function look(index) {
  if (index < 0 || index >= photos.length) return;
  open = index;
  heat = "";
  const photo = photos[index];
  $("title").textContent = photo.filename || photo.sha256.slice(0, 12);
  $("large").src = `/api/images/${photo.id}/file`;
  $("large").alt = `${photo.filename}: ${shown(photo)}`;
  $("comment").value = photo.review?.comment ?? "";
  const size = `${photo.width} × ${photo.height} px`;
  const model = photo.model_id ? `, predicted by model ${photo.model_id}` : "";
  const by = photo.review ? `, ${photo.review.decision} by ${photo.review.reviewer || "somebody"}` : "";
  $("facts").textContent = size + model + by;
  const current = photo.review?.labels ?? photo.labels ?? {};
  $("choice").replaceChildren(...Object.entries(labels).map(([kind, names]) => choices(kind, names, current, photo)));
  const order = Object.keys(photo.predictions ?? {});
  $("heat-label").replaceChildren(...order.map((name) => new Option(name)));
  $("confirm").disabled = !photo.labels || photo.review?.decision === "corrected"; // that one's labels are shown
  say("", false, "told");
  if (!$("detail").open) $("detail").showModal();
}

function choices(kind, names, current, photo) {
  const set = document.createElement("fieldset");
  set.append(Object.assign(document.createElement("legend"), { textContent: kind }));
  for (const name of names) {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), {
      type: several ? "checkbox" : "radio", name: kind, value: name, checked: (current[kind] ?? []).includes(name),
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
  const photo = photos[open], body = { decision, comment: $("comment").value, labels: photo.labels };
  body.reviewer = new FormData($("filter")).get("reviewer");
  if (decision === "correct") {
    body.labels = {};
    for (const kind of Object.keys(labels)) {
      body.labels[kind] = [...$("choice").querySelectorAll("input:checked")].filter((i) => i.name === kind).map((i) => i.value);
    }
  }
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await json(`/api/images/${photo.id}`, { method: "PATCH", headers, body: JSON.stringify(body) });
    photos[open] = answer.data;
    $("photos").children[open].replaceWith(card(answer.data, open));
    if (open + 1 < photos.length) look(open + 1);
    else say("The last photo of this page.", false, "told");
  } catch (error) {
    if (error.code === "prediction_changed") {
      photos[open] = (await json(`/api/images/${photo.id}`)).data;
      look(open);
      error.message = "A newer model has predicted this photo: look again.";
    }
    say(error.message, true, "told");
  }
}

async function showHeat() {
  const photo = photos[open];
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
    const picture = await (await call("/explain", { method: "POST", body: form })).blob();
    if (photos[open] !== photo) return;
    heat = URL.createObjectURL(picture);
    $("large").src = heat;
    say("", false, "told");
  } catch (error) {
    say(error.message, true, "told");
  }
}

async function remove() {
  if (!confirm("Delete this photo with its predictions and decisions?")) return;
  try {
    await call(`/api/images/${photos[open].id}`, { method: "DELETE" });
    $("detail").close();
    await load();
  } catch (error) {
    say(error.message, true, "told");
  }
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function patiently(work) {
  for (let turn = 0; ; turn += 1) {
    try {
      return await work();
    } catch (error) {
      if (!error.wait || turn > 20) throw error;
      await pause(error.wait);
    }
  }
}

async function add(files) {
  const waiting = [...files], faults = [];
  let done = 0;
  async function worker() {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      try {
        const form = new FormData();
        form.append("file", file, file.name);
        const photo = await patiently(() => json("/api/upload", { method: "POST", body: form }));
        await patiently(() => call(`/api/predict?id=${photo.id}`, { method: "POST" }));
        done += 1;
      } catch (error) {
        faults.push(`${file.name}: ${error.message}`);
      }
      say(`${done} of ${files.length} photos taken` + (faults.length ? `; not taken: ${faults.join("; ")}` : ""), faults.length > 0);
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  offset = 0;
  await load();
  for (let turn = 0; turn < 600 && photos.some((photo) => !photo.prediction); turn += 1) {
    await pause(0.5);
    if (!$("detail").open) await load();
  }
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
  offset = 0;
  load();
});
$("back").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); load(); });
$("next").addEventListener("click", () => { offset += PAGE; load(); });
$("confirm").addEventListener("click", () => decide("confirm"));
$("correct").addEventListener("click", () => decide("correct"));
$("previous").addEventListener("click", () => look(open - 1));
$("following").addEventListener("click", () => look(open + 1));
$("heat").addEventListener("click", showHeat);
$("remove").addEventListener("click", remove);
$("heat-label").addEventListener("change", () => { heat = ""; showHeat(); });
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox], [type=radio]), select, textarea");
  if (!$("detail").open || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { j: () => look(open + 1), k: () => look(open - 1), h: showHeat, s: () => decide("correct") }[event.key];
  if (event.key === "Enter" && !event.target.matches("button")) $("confirm").click();
  else if (act) act();
  else return;
  event.preventDefault();
});
$("filter").elements.reviewer.value = localStorage.getItem("reviewer") ?? "";
json("/health").then((health) => ($("model").textContent = `model ${health.model_version}`));
load();
