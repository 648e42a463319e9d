// Files and camera stills go to the server as JSON, which keeps them in memory; Gradio's own upload would write a file.
const find = (name) => element.querySelector(name);
const say = (text) => { find(".problem").textContent = text; };
const base64 = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});
async function send(files) {
  say("");
  const added = [];
  for (const file of files) {
    if (file.size > props.limit) { say(`${file.name} has ${file.size} bytes, more than the ${props.limit} that are taken; save it smaller`); continue; }
    try {
      const answer = await server.receive({ name: file.name, content: await base64(file) });
      if (answer.problem) say(answer.problem); else added.push(answer);
    } catch (error) { say(`${file.name} could not be sent; try again`); }
  }
  if (added.length) trigger("upload", { new: added });
}
let stream = null;
function off() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  find(".viewfinder").hidden = true;
}
element.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  send([...event.target.files]).then(() => { event.target.value = ""; });
});
element.addEventListener("dragover", (event) => { event.preventDefault(); find(".drop").classList.add("over"); });
element.addEventListener("dragleave", () => find(".drop").classList.remove("over"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  find(".drop").classList.remove("over");
  send([...event.dataTransfer.files]);
});
element.addEventListener("click", async (event) => {
  if (event.target.matches(".camera")) {
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true });
      find("video").srcObject = stream;
      find(".viewfinder").hidden = false;
    } catch (error) { say(`the camera cannot be used (${error.message}); allow it for this page, over localhost or https`); }
  } else if (event.target.matches(".off")) off();
  else if (event.target.matches(".still")) {
    const video = find("video"), canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const name = `camera ${new Date().toLocaleTimeString()}.jpg`; // a PNG of a canvas has an alpha channel
    canvas.toBlob((blob) => send([new File([blob], name)]), "image/jpeg", 1);
    off();
  }
});
