import { title } from "/src/title.js";

async function show() {
  const answer = await fetch("/api/data");
  document.querySelector("#data").textContent = (await answer.json()).text;
}

document.querySelector("h1").textContent = title;
new EventSource("/api/events").onmessage = show;
