export const title = "First title";
