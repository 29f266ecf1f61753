// Runs once, when the database is empty: a user for Casemate that may use its own database and nothing else.
const password = require("fs").readFileSync("/run/secrets/mongo-password", "utf8").trim();
db.getSiblingDB("casemate").createUser({
  user: "casemate",
  pwd: password,
  roles: [{ role: "readWrite", db: "casemate" }],
});
