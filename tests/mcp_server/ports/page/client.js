// What a development server adds to a page, as Vite does: reloads it when the server says so.
const shown = document.querySelector("#socket");
const socket = new WebSocket(`ws://${location.host}/`, "vite-hmr");

socket.onmessage = ({ data }) => {
  const { type } = JSON.parse(data);
  if (type === "full-reload") location.reload();
  else shown.textContent = type;
};
socket.onclose = ({ code, reason }) => {
  shown.textContent = `closed ${code}: ${reason}`;
};
