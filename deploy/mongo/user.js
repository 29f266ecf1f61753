// Creates a user for Casemate with access to its own database only. Runs once, when MongoDB starts without data.
const password = require("fs").readFileSync("/run/secrets/mongo-password", "utf8").trim();
db.getSiblingDB("casemate").createUser({
  user: "casemate",
  pwd: password,
  roles: [{ role: "readWrite", db: "casemate" }],
});
