// one frame at a time: the next one is taken when the last one is answered, so the rate is the machine's
const find = name => element.querySelector(name);
let stream = null;
function stop() {
  if (stream) stream.getTracks().forEach(track => track.stop());
  stream = null;
  find('.start').hidden = false;
  find('.stop').hidden = find('.screens').hidden = true;
}
async function run() {
  const video = find('video'), canvas = document.createElement('canvas'), times = [];
  while (stream) {
    if (!video.videoWidth) { await new Promise(requestAnimationFrame); continue; }
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext('2d').drawImage(video, 0, 0);
    const model = new URL(window.location).searchParams.get('model') || '';
    let answer;
    try { answer = await server.frame({ photo: canvas.toDataURL('image/jpeg', 0.95), model }); }
    catch (error) { answer = { problem: 'the server does not answer' }; }
    if (!stream) return;
    if (answer.problem) { find('.problem').textContent = answer.problem; stop(); return; }
    find('.answer').src = answer.picture;
    times.push(performance.now());
    if (times.length > 11) times.shift();
    const rate = times.length > 1 ? 1000 * (times.length - 1) / (times.at(-1) - times[0]) : 0;
    find('.rate').textContent = `${rate.toFixed(1)} frames/s, ${answer.psnr} dB`;
  }
}
element.addEventListener('click', async event => {
  if (event.target.matches('.stop')) stop();
  if (!event.target.matches('.start')) return;
  find('.problem').textContent = '';
  try { stream = await navigator.mediaDevices.getUserMedia({ video: true }); }
  catch (error) { find('.problem').textContent = `the camera cannot be used (${error.message}); allow it for this page, over localhost or https`; return; }
  find('video').srcObject = stream;
  find('.start').hidden = true;
  find('.stop').hidden = find('.screens').hidden = false;
  run();
});
